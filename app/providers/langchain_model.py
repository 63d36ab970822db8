"""From a dotted path of the configuration to what is asked: a chat model, or another runnable.

    "langchain_openai:ChatOpenAI"     a class: one instance for each model's name
    "chains:support"                  an instance, or another runnable: asked as it is
    "chains:make"                     a function that makes either; what it is not given by name it does without

A class is given what it takes of `model`, `base_url`, `api_key`, `timeout`, `max_retries` and `stream_usage`, then the
options. `max_retries` is 0: trying again is decided in one place, and not here. `timeout` is longer than our own
clocks, which ring first: it ends what nobody waits for any more where that can't be ended from outside (in a thread).

Only for providers that are asked: it imports LangChain.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pydantic
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

from ..errors import NotFound
from ..registry import nearest
from ..settings import ProviderSettings, Timeouts, Unusable
from ..targets import Target
from .failures import scrub

MAX_MODELS = 64  # instances that are kept: clients choose the names


class Models:
    """What a langchain provider asks, by model. Raises `Unusable` where the table does not fit what its path leads to,
    or nothing can be made so."""

    def __init__(self, settings: ProviderSettings, key: str) -> None:
        self._settings = settings
        self._key = key
        found = _found(settings.model_class)
        self._takes: _Takes = {}
        if isinstance(found, Runnable):
            self._make: Callable[..., Any] = lambda: found
        elif callable(found):
            self._make = found
            self._takes = _parameters(found)
        else:
            raise self._unusable(f"should lead to a chat model's class, a runnable, or a function, not {_a(found)}")
        timeout = None if self._takes is None else self._takes.get("timeout")
        self._takes_timeout = _fits(timeout, 1.0)
        self._takes_two_timeouts = _fits(timeout, (1.0, 1.0))  # to connect, and to read
        self._refuse_what_has_no_place()
        self._made = functools.lru_cache(MAX_MODELS)(self._made_with)
        if settings.default_model or not self._named_by:
            self._of(settings.default_model or "", Timeouts())  # wrong options are to be found at the start

    def of(self, target: Target) -> Runnable[Any, Any]:
        """What answers for a target. Raises `NotFound` for a name that means nothing to it, and `Unusable`."""
        default = self._settings.default_model
        if not self._named_by and default is not None and target.model != default:
            raise NotFound(
                f"unknown model {target.name!r}; {nearest(target.name, [f'{target.provider}/{default}'])}",
                param="model",
            )
        return self._of(target.model, target.timeouts)

    @property
    def _named_by(self) -> str | None:
        """The argument that is a model's name."""
        return next((name for name in ("model", "model_name", "model_id") if _takes(self._takes, name)), None)

    def _of(self, model: str, timeouts: Timeouts) -> Runnable[Any, Any]:
        given: dict[str, Any] = {} if self._named_by is None else {self._named_by: model}
        read_s = max(timeouts.first_token_s, timeouts.idle_s) + 1.0
        if self._takes_two_timeouts:
            given["timeout"] = (timeouts.connect_s, read_s)
        elif self._takes_timeout:
            given["timeout"] = read_s
        return self._made(**given)

    def _made_with(self, **given: Any) -> Runnable[Any, Any]:
        settings, takes = self._settings, self._takes
        if settings.base_url is not None:
            given["base_url"] = settings.base_url
        if self._key or settings.base_url is not None:  # a server of its own, without a key: one that asks for none
            given |= {"api_key": self._key or "none"} if _takes(takes, "api_key") else {}
        if _takes(takes, "max_retries"):
            given["max_retries"] = 0
        if takes is not None and "stream_usage" in takes:  # langchain-openai: off with a base URL
            given["stream_usage"] = True
        try:
            made = self._make(**{**given, **settings.options})
        except pydantic.ValidationError as exc:
            raise self._invalid(exc) from None
        except Exception as exc:
            raise self._unusable(f"can't be made: {type(exc).__name__}: {scrub(str(exc), self._key)}") from exc
        if not isinstance(made, Runnable):
            raise self._unusable(f"should make a chat model or another runnable, not {_a(made)}")
        return made

    def _refuse_what_has_no_place(self) -> None:
        settings, takes = self._settings, self._takes
        where = settings.model_class
        for name in settings.options:
            if not _takes(takes, name):
                known = nearest(name, takes or ()) if takes else "it takes none"
                raise Unusable(("options", name), None, f"{where} has no such argument; {_short(known)}")
        if settings.base_url is not None and not _takes(takes, "base_url"):
            raise Unusable(("base_url",), settings.base_url, f"{where} has no such argument; see its options")
        if self._key and self._settings.api_key_env and not _takes(takes, "api_key"):
            raise Unusable(("api_key_env",), None, f"{where} has no argument api_key; see its options")

    def _invalid(self, exc: pydantic.ValidationError) -> Unusable:
        problem = exc.errors(include_input=False, include_url=False)[0]
        said = scrub(problem["msg"].removeprefix("Value error, "), self._key)
        if problem["loc"] and (name := str(problem["loc"][0])) in self._settings.options:
            return Unusable(("options", name), None, said)
        at = ".".join(map(str, problem["loc"]))
        return self._unusable(f"can't be made: {at + ': ' if at else ''}{said}")

    def _unusable(self, wanted: str) -> Unusable:
        return Unusable(("model_class",), self._settings.model_class, wanted)


def _found(path: str) -> Any:
    """What stands at `package.module:name` (the last dot may stand for the colon)."""
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        missing = exc.name or module_name
        if not f"{module_name}.".startswith(f"{missing}."):  # it is there, and misses another
            raise Unusable(("model_class",), path, f"importing it failed: {scrub(str(exc))}") from exc
        raise Unusable(("model_class",), path, _how_to_install(missing)) from None
    except Exception as exc:
        said = f"importing it failed: {type(exc).__name__}: {scrub(str(exc))}"
        raise Unusable(("model_class",), path, said) from exc
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), n=1)
            hint = f". Did you mean {close[0]!r}?" if close else ""
            raise Unusable(("model_class",), path, f"{module_name} has no {part!r}{hint}") from None
    return found


def _how_to_install(module: str) -> str:
    top = module.partition(".")[0]
    if top.startswith("langchain"):
        return f"{module} is not installed: pip install {top.replace('_', '-')}"
    return f"there is no module {module!r}: is it installed, or its folder on the path?"


# A callable's parameters by name, of each what may be given to it; None: any, by any name.
_Takes = Mapping[str, Any] | None


def _parameters(make: Callable[..., Any]) -> _Takes:
    if inspect.isclass(make) and issubclass(make, pydantic.BaseModel):
        found: dict[str, Any] = {}
        for name, field in make.model_fields.items():
            found[name] = field.annotation
            if field.alias:
                found[field.alias] = field.annotation
        return found
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # of C, without a signature
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name: Any for parameter in parameters if parameter.kind in named}


def _takes(takes: _Takes, name: str) -> bool:
    return takes is None or name in takes


def _fits(annotation: Any, value: object) -> bool:
    if annotation is None:
        return False
    if annotation is Any:
        return isinstance(value, float)
    try:
        pydantic.TypeAdapter(annotation, config={"arbitrary_types_allowed": True}).validate_python(value)
    except (pydantic.ValidationError, pydantic.PydanticUserError, TypeError):
        return False
    return True


def _a(value: object) -> str:
    return f"a {type(value).__name__}"


def _short(text: str) -> str:
    """`nearest`'s, of a class with fifty arguments."""
    names, _, hint = text.partition(". Did you mean")
    return f"did you mean{hint}" if hint else (names if len(names) <= 200 else f"{names[:200]}...")


def is_chat_model(model: object) -> bool:
    return isinstance(model, BaseChatModel)
