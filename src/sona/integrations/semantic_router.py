"""semantic-router, whose routes are weighed by what came of choosing them.

router = SonaRouter(inner, engine, embed=...)
router("how do I pay?").name
router.feedback("how do I pay?", "billing", 0.9)
"""

from __future__ import annotations

from collections.abc import Callable

from sona import SonaEngine
from sona.checks import check_count, check_quality, check_text
from sona.errors import MissingExtraError
from sona.integrations.advice import Advisor
from sona.types import ArrayLike

try:
    from semantic_router.routers.base import BaseRouter
except ImportError:
    raise MissingExtraError(
        "this router needs semantic-router; install it with: pip install 'sona[semantic-router]'"
    ) from None

__all__ = ["SonaRouter"]


class SonaRouter(BaseRouter):
    """A router that lets sona choose among the best routes of another one.

    Parameters
    ----------
    router : semantic_router.routers.base.BaseRouter
        Scores the routes; what it scores best is among the candidates.
    engine : SonaEngine
    embed : callable
        From a query to its embedding; not a coroutine function.
    candidates : int, default 2
        Best-scored routes that sona chooses among, at least 2.
    explore : int, default 10
        Outcomes that each candidate should have before the best expected one alone is chosen.

    Attributes
    ----------
    failures : int
        How often something in sona went wrong. Each time the scores were those of `router`; the
        first is logged to ``sona.integrations``.

    Raises
    ------
    ConfigError, RangeError, DTypeError
        If an argument is refused.

    Notes
    -----
    The scores are those of `router`; the chosen route and the best-scored one exchange theirs, so
    thresholds and calibration mean what they meant. Add and remove routes on `router`.
    """

    def __init__(
        self,
        router: BaseRouter,
        engine: SonaEngine,
        embed: Callable[[str], ArrayLike],
        candidates: int = 2,
        explore: int = 10,
    ) -> None:
        self._advisor = Advisor(engine, embed, 0.0, 0.0, explore)
        self._candidates = check_count("candidates", candidates, 2)
        super().__init__(router.routes, router.confidence_threshold, router.calibrator)
        self.probabilistic = router.probabilistic
        self._embed, self._inner = embed, router

    @property
    def failures(self) -> int:
        return self._advisor.failures

    def feedback(self, query: str, route: str, quality: float) -> None:
        """Say how good it was to choose a route for a query.

        Parameters
        ----------
        query : str
            Embedded here, as it was when the route was chosen.
        route : str
        quality : float
            In [0, 1].

        Raises
        ------
        RangeError, NonFiniteError, DTypeError
            If an argument is refused.
        """
        quality, route = check_quality("quality", quality), check_text("route", route)
        self._advisor.learn(self._embed(query), route, quality)

    def flush(self) -> None:
        """Wait until all feedback so far is learned."""
        self._advisor.flush()

    async def _scores(self, query: str) -> dict[str, float]:
        scores: dict[str, float] = dict(await self._inner._scores(query))
        try:
            best = sorted(scores, key=scores.__getitem__, reverse=True)[: self._candidates]
            if len(best) > 1:
                chosen = self._advisor.choose(self._embed(query), best) or best[0]
                scores[best[0]], scores[chosen] = scores[chosen], scores[best[0]]
        except Exception as error:
            self._advisor.failed(error)
        return scores
