"""The document as JSON (docs/design/document.md): reading it, with a Problem for all that is wrong, and
writing the one canonical text of a document."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, replace
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar

from balancer.domain import scalars
from balancer.domain.fields import BACKEND_FIELDS, LATER, REQUIRED, SECTION_FIELDS, SERVICE_FIELDS
from balancer.domain.limits import MAX_BACKENDS
from balancer.domain.problem import Problem, errors
from balancer.domain.scalars import Invalid, InvalidEntries, Scalar
from balancer.domain.types import SCHEMA, Backend, Document, Network, PortRange, Service, keys_of
from balancer.domain.validation import validate_parsed

_T = TypeVar("_T")
_MISSING = object()


def load_document(text: str | bytes) -> tuple[Document | None, tuple[Problem, ...]]:
    """The document in a JSON text; None with at least one error among the problems when there is none."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except _DuplicateKey as error:
        return None, (
            Problem("", "duplicate-key", f"The key {error.args[0]!r} appears twice in one object."),
        )
    except (ValueError, RecursionError) as error:
        return None, (Problem("", "not-json", f"This is not valid JSON: {error}."),)
    return parse_document(value)


def parse_document(value: object) -> tuple[Document | None, tuple[Problem, ...]]:
    """The document that a JSON value holds. Problems name the place in the input, warnings included."""
    if not isinstance(value, dict):
        message = f"A document is a JSON object with the key 'services', not {scalars.describe(value)}."
        return None, (Problem("", "not-an-object", message),)
    problems = list(_unknown_keys(value, known=("schema", "services"), path=""))
    schema = value.get("schema", SCHEMA)
    if schema != SCHEMA or isinstance(schema, bool):
        problems.append(Problem("schema", "schema", f"This version reads schema {SCHEMA}, not {schema!r}."))
    parsed: dict[str, Service] = {}
    for path, item in _items(value.get("services", _MISSING), path="services", problems=problems):
        service, found = _read_service(item, path=path)
        problems.extend(found)
        if service is not None:
            parsed[path] = service
    problems.extend(validate_parsed(parsed))
    if errors(tuple(problems)):
        return None, tuple(problems)
    services = sorted((_canonical(service) for service in parsed.values()), key=lambda s: s.name)
    return Document(services=tuple(services)), tuple(problems)


def parse_service(value: object, *, path: str = "") -> tuple[Service | None, tuple[Problem, ...]]:
    """One service, with its own problems; what concerns its neighbours is asked of `validate_document`."""
    service, problems = _read_service(value, path=path)
    if service is not None:
        problems += validate_parsed({path: service}, alone=True)
    return (None if service is None or errors(problems) else _canonical(service)), problems


def document_to_data(document: Document) -> dict[str, Any]:
    return {"schema": document.schema, "services": [service_to_data(s) for s in document.services]}


def service_to_data(service: Service) -> dict[str, Any]:
    """Every key spelled out, defaults too, but for later keys (`LATER`) at their default."""
    data = spell_out_service(service)
    for path, default in LATER.items():
        section, _, key = path.rpartition(".")
        place = data[section] if section else data
        if place[key] == default:
            del place[key]
    return data


def spell_out_service(service: Service) -> dict[str, Any]:
    """Every key that there is; for people, never for a digest."""
    data: dict[str, Any] = _to_data(service)
    return data


def dump_document(document: Document) -> str:
    """The canonical text: equal documents give equal bytes."""
    return json.dumps(document_to_data(document), sort_keys=True, indent=1, ensure_ascii=True) + "\n"


def digest_text(text: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _read_service(value: object, *, path: str) -> tuple[Service | None, tuple[Problem, ...]]:
    if not isinstance(value, dict):
        message = f"A service is a JSON object, not {scalars.describe(value)}."
        return None, (Problem(path, "not-an-object", message),)
    problems = list(_unknown_keys(value, known=(*SERVICE_FIELDS, *SECTION_FIELDS, "backends"), path=path))
    kept = _read_scalars(value, kind=Service, readers=SERVICE_FIELDS, path=path, problems=problems)
    for key, (kind, readers) in SECTION_FIELDS.items():
        if key in value:
            section = _read_section(value[key], kind, readers, path=_join(path, key), problems=problems)
            kept[key] = section
    kept["backends"] = _read_backends(value.get("backends", []), kept.get("port"), path, problems)
    if errors(tuple(problems)):
        return None, tuple(problems)
    return Service(**kept), tuple(problems)


def _read_backends(
    value: object, service_port: object, path: str, problems: list[Problem]
) -> tuple[Backend, ...]:
    path = _join(path, "backends")
    if isinstance(value, list) and len(value) > MAX_BACKENDS:
        message = f"A service has at most {MAX_BACKENDS} backends; this one has {len(value)}."
        problems.append(Problem(path, "too-many", message))
        return ()
    backends = []
    for item_path, item in _items(value, path=path, problems=problems):
        if isinstance(item, dict) and "port" not in item:
            # A service without a good port is refused for that; its backends need no second Problem.
            item = {**item, "port": service_port or 1}
        backend = _read_section(item, Backend, BACKEND_FIELDS, path=item_path, problems=problems)
        if backend is not None:
            backends.append(backend)
    problems.extend(_duplicates(value, backends, path))
    return tuple(backends)


def _duplicates(value: object, backends: list[Backend], path: str) -> Iterator[Problem]:
    if not isinstance(value, list) or len(backends) != len(value):
        return  # indexes would not tell the truth; the other problems come first
    seen: dict[str, int] = {}
    for index, backend in enumerate(backends):
        first = seen.setdefault(backend.endpoint, index)
        if first != index:
            message = f"{backend.endpoint} is already backend number {first + 1} of this service."
            yield Problem(f"{path}[{index}].address", "duplicate", message)


def _read_section(
    value: object, kind: type[_T], readers: Mapping[str, Scalar], *, path: str, problems: list[Problem]
) -> _T | None:
    if not isinstance(value, dict):
        message = f"This is a JSON object, not {scalars.describe(value)}."
        problems.append(Problem(path, "not-an-object", message))
        return None
    before = len(problems)
    problems.extend(_unknown_keys(value, known=tuple(readers), path=path))
    kept = _read_scalars(value, kind=kind, readers=readers, path=path, problems=problems)
    return None if len(problems) > before else kind(**kept)


def _read_scalars(
    value: dict[str, object],
    *,
    kind: type[Any],
    readers: Mapping[str, Scalar],
    path: str,
    problems: list[Problem],
) -> dict[str, Any]:
    kept = {}
    for key, read in readers.items():
        if key not in value:
            if key in REQUIRED.get(kind, ()):
                message = f"{scalars.label(key)} is missing; it has no default."
                problems.append(Problem(_join(path, key), "missing", message))
            continue
        try:
            kept[key] = read(value[key])
        except InvalidEntries as error:
            problems.extend(
                Problem(f"{_join(path, key)}[{index}]", code, message)
                for index, code, message in error.entries
            )
        except Invalid as error:
            problems.append(Problem(_join(path, key), error.code, f"{scalars.label(key)} {error.message}"))
    return kept


def _items(value: object, *, path: str, problems: list[Problem]) -> Iterator[tuple[str, object]]:
    if value is _MISSING:
        problems.append(
            Problem(path, "missing", "The list of services is missing; an empty list is allowed.")
        )
    elif not isinstance(value, list):
        problems.append(Problem(path, "not-a-list", f"This is a list, not {scalars.describe(value)}."))
    else:
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))


def _unknown_keys(value: dict[str, object], *, known: tuple[str, ...], path: str) -> Iterator[Problem]:
    for key in sorted(set(value) - set(known)):
        near = get_close_matches(key, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Known keys: " + ", ".join(sorted(known)) + "."
        shown = scalars.describe(key)
        # A key of a stranger may be anything, half a character included; paths are shown to people.
        yield Problem(_join(path, shown[1:-1]), "unknown-key", f"The key {shown} is not known. {hint}")


def _to_data(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, PortRange):
        return {f: _to_data(getattr(value, f)) for f in keys_of(type(value))}
    if isinstance(value, tuple):
        return [_to_data(item) for item in value]
    if (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, str) and not isinstance(value, Enum))
    ):
        return value
    return str(value)


def _canonical(service: Service) -> Service:
    """Sorted only after validation, so that Problems count backends and networks as the input does."""
    backends = sorted(service.backends, key=lambda b: (b.address.version, int(b.address), b.port))
    allow, deny = (_each_once(networks) for networks in (service.access.allow, service.access.deny))
    return replace(service, backends=tuple(backends), access=replace(service.access, allow=allow, deny=deny))


def _each_once(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Sorted. What is there twice is left out: lists of thousands come from several sources."""
    return tuple(sorted(set(networks), key=lambda n: (n.version, int(n.network_address), n.prefixlen)))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class _DuplicateKey(ValueError):
    pass


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    kept: dict[str, object] = {}
    for key, value in pairs:
        if key in kept:
            raise _DuplicateKey(key)
        kept[key] = value
    return kept


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
