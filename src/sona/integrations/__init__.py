"""What connects sona to the programs around it; each module needs only its own extra."""
