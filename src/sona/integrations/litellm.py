"""LiteLLM's router, choosing by what each model achieved on similar requests.

One object is router and logger. In the proxy it takes one line::

    litellm_settings:
      callbacks: my_sona.router        # router = SonaRouter(engine, embed=...), in my_sona.py

Among the deployments of a model group, which LiteLLM has found healthy, it keeps those of the
model with the best expected quality less cost; LiteLLM balances and retries among them as ever.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from sona import SonaEngine
from sona.checks import check_quality
from sona.errors import ConfigError, MissingExtraError, RangeError
from sona.integrations.advice import Advisor, Embed, Recent
from sona.types import ArrayLike

try:
    import litellm
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.types.router import CustomRoutingStrategyBase
except ImportError:
    raise MissingExtraError(
        "routing in LiteLLM needs litellm; install it with: pip install 'sona[litellm]'"
    ) from None

__all__ = ["SonaRouter"]

# Where a request carries the name of its decision from the choice to the log.
_KEY = "sona_decision"


class _Asked(msgspec.Struct):
    """A request on its way, and the models that it has been sent to."""

    vector: ArrayLike
    tried: tuple[str, ...] = ()


class _Served(msgspec.Struct):
    """A request that a model has answered; it is known by two names and judged once."""

    vector: ArrayLike
    route: str
    judged: bool = False


class SonaRouter(CustomLogger, CustomRoutingStrategyBase):
    """Routes within LiteLLM's model groups and learns from what comes of it.

    Routes are the models behind a group, as ``litellm_params.model`` names them. A group with one
    model, and a request without a user's text, is left to LiteLLM.

    Parameters
    ----------
    engine : SonaEngine
    embed : callable
        From the user's last message to its embedding. It runs in the request's way, so it should
        be a local model; a coroutine function is awaited.
    quality : callable, optional
        From LiteLLM's log (``kwargs``) and the response to a quality in [0, 1], or to None where
        it cannot tell yet. Without one, and after None, call :meth:`feedback`.
    cost_weight : float, default 0.0
        What a dollar is worth in quality, by the mean cost that LiteLLM logged for a model.
    latency_weight : float, default 0.0
        What a second is worth in quality.
    explore : int, default 10
        Outcomes that each model of a group should have before requests go to the best expected
        one alone; until then models are tried that may turn out better. 0: never.

    Attributes
    ----------
    failures : int
        How often something in sona went wrong. Each time the request was routed as if sona were
        not there; the first is logged to ``sona.integrations``.

    Raises
    ------
    ConfigError
        If `embed` or `quality` is not callable.
    RangeError, DTypeError
        If a weight or `explore` is refused.

    Notes
    -----
    A call that ends in a timeout or an error of the provider (status 500 and up) counts as
    quality 0 for its model; other errors are the request's or the quota's and teach nothing.
    Learning runs in a thread of its own. While the engine's background loop runs, routing is left
    as it is without sona. For synchronous calls, see :meth:`install`.
    """

    def __init__(
        self,
        engine: SonaEngine,
        embed: Embed,
        quality: Callable[[Mapping[str, Any], Any], float | None] | None = None,
        cost_weight: float = 0.0,
        latency_weight: float = 0.0,
        explore: int = 10,
    ) -> None:
        super().__init__()
        if quality is not None and not callable(quality):
            raise ConfigError(f"`quality` must be a function or None; got {quality!r}")
        self._advisor = Advisor(engine, embed, cost_weight, latency_weight, explore)
        # Names of decisions, which no other process gives.
        self._prefix, self._numbers = secrets.token_hex(8), itertools.count()
        self._quality = quality
        self._asked: Recent[_Asked] = Recent()
        self._served: Recent[_Served] = Recent()
        self._host: Any = None

    @property
    def failures(self) -> int:
        return self._advisor.failures

    def install(self, router: litellm.Router) -> None:
        """Serve a Router's synchronous calls too.

        LiteLLM asks callbacks only in asynchronous calls; in synchronous ones it asks a custom
        strategy, which then picks for both. Within the chosen model the pick is by weight, as
        ``simple-shuffle`` does it.

        Raises
        ------
        ConfigError
            If the Router has another strategy, which this one would replace.
        """
        strategy = router.settings().routing_strategy
        if strategy != "simple-shuffle":
            raise ConfigError(f"`router` must have routing_strategy simple-shuffle; got {strategy}")
        self._host = router
        litellm.logging_callback_manager.add_litellm_callback(self)
        router.register_plugin(self)

    def feedback(self, request_id: str, quality: float) -> None:
        """Say how good the answer to a request was.

        Parameters
        ----------
        request_id : str
            ``response.id``, or the ``x-litellm-call-id`` of the proxy's answer.
        quality : float
            In [0, 1].

        Raises
        ------
        RangeError, NonFiniteError, DTypeError
            If `quality` is refused, or `request_id` is not among the latest 5,000 that sona has
            routed and nobody has judged.
        """
        quality = check_quality("quality", quality)
        served = self._served.take(request_id)
        if served is None or served.judged:
            raise RangeError(f"`request_id` {request_id!r} waits for no feedback")
        served.judged = True
        self._advisor.learn(served.vector, served.route, quality)

    def flush(self) -> None:
        """Wait until all outcomes so far are learned; before :meth:`~sona.SonaEngine.save`."""
        self._advisor.flush()

    # Choosing

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[Any]:
        """Keep the deployments of the best model; called by LiteLLM."""
        try:
            request = {} if request_kwargs is None else request_kwargs
            metadata = request.get("litellm_metadata") or request.setdefault("metadata", {})
            text = _text(messages)
            by_model: dict[str, list[Any]] = {}
            for one in healthy_deployments:
                by_model.setdefault(str(one["litellm_params"]["model"]), []).append(one)
            if not text or len(by_model) < 2:
                return healthy_deployments
            routes = list(by_model)
            name = metadata.get(_KEY)
            asked = None if name is None else self._asked.get(name)
            if asked is None:
                made: Any = self._advisor.embed(text)
                asked = _Asked(await made if hasattr(made, "__await__") else made)
                metadata[_KEY] = name = f"{self._prefix}-{next(self._numbers)}"
                self._asked.put(name, asked)
            else:  # the first try has failed
                asked.tried += (str(metadata.get("deployment")),)
                routes = [model for model in routes if model not in asked.tried]
            route = self._advisor.choose(asked.vector, routes) if routes else None
            return healthy_deployments if route is None else by_model[route]
        except Exception as error:
            self._advisor.failed(error)
            return healthy_deployments

    async def async_get_available_deployment(
        self,
        model: str,
        messages: Any = None,
        input: Any = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Pick a deployment; called by LiteLLM after :meth:`install`."""
        healthy = await self._host.select(
            model,
            dict(request_kwargs or {}),
            kind="healthy",
            messages=messages,
            input=input,
            specific_deployment=specific_deployment,
        )
        return healthy if isinstance(healthy, Mapping) else _by_weight(healthy)

    def get_available_deployment(self, *args: Any, **kwargs: Any) -> Any:
        """Pick a deployment in a synchronous call; called by LiteLLM after :meth:`install`."""
        return _waiting.run(self.async_get_available_deployment(*args, **kwargs))

    # Learning

    def log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Learn from an answer; called by LiteLLM."""
        try:
            self._answered(kwargs, response_obj, (end_time - start_time).total_seconds())
        except Exception as error:
            self._advisor.failed(error)

    def log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Learn from a failure; called by LiteLLM."""
        try:
            name, route = _decision(kwargs)
            asked = self._asked.get(name)
            status = getattr(kwargs.get("exception"), "status_code", 500)
            if asked is not None and route and (status >= 500 or status == 408):
                self._advisor.learn(asked.vector, route, 0.0)
        except Exception as error:
            self._advisor.failed(error)

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """As :meth:`log_success_event`."""
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """As :meth:`log_failure_event`."""
        self.log_failure_event(kwargs, response_obj, start_time, end_time)

    def _answered(self, kwargs: Mapping[str, Any], response: Any, seconds: float) -> None:
        name, route = _decision(kwargs)
        asked = self._asked.take(name)
        if asked is None or not route:
            return
        self._advisor.spent(route, float(kwargs.get("response_cost") or 0.0), seconds)
        quality = None if self._quality is None else self._quality(kwargs, response)
        if quality is not None:
            self._advisor.learn(asked.vector, route, check_quality("quality", quality))
            return
        served = _Served(asked.vector, route)
        for request_id in (getattr(response, "id", None), kwargs.get("litellm_call_id")):
            if isinstance(request_id, str):
                self._served.put(request_id, served)


def _decision(kwargs: Mapping[str, Any]) -> tuple[object, str | None]:
    """Return the name of the decision, and the model that it came to."""
    params = kwargs.get("litellm_params") or {}
    for bucket in ("litellm_metadata", "metadata"):
        metadata = params.get(bucket) or {}
        if _KEY in metadata:
            return metadata[_KEY], metadata.get("deployment")
    return None, None


def _text(messages: Any) -> str:
    """Return what the user said last."""
    for message in reversed(messages or ()):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = [part.get("text") or "" for part in content or () if isinstance(part, Mapping)]
            return "\n".join(part for part in parts if part)
    return ""


def _by_weight(deployments: Sequence[Any]) -> Any:
    weights = [one["litellm_params"].get("weight") or 0 for one in deployments]
    return random.choices(deployments, weights if any(weights) else None)[0]


class _Loop:
    """An event loop in a thread of its own, where synchronous calls wait for asynchronous ones."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                serve = self._loop.run_forever
                threading.Thread(target=serve, name="sona-litellm", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


_waiting = _Loop()
