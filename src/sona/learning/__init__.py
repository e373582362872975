"""What learns: adapters, clusters, patterns, routing."""

from sona.learning.kmeans import SphericalKMeans
from sona.learning.lora import BaseLoRA, MicroLoRA
from sona.learning.pattern_index import PatternIndex

__all__ = ["BaseLoRA", "MicroLoRA", "PatternIndex", "SphericalKMeans"]
