"""PKCS#11 URIs (RFC 7512): which key of which token, as far as a private key needs it (docs/signing.md)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sipl.errors import UsageError

SCHEME: Final = "pkcs11:"

# A URI is one word of a command line: no real one comes near this, and nothing below is slower than linear.
MAX_URI_LENGTH: Final = 4096

_TOKEN_ATTRIBUTES: Final = ("token", "manufacturer", "serial", "model", "slot-id")
_KEY_ATTRIBUTES: Final = ("object", "id", "type")
_QUERY_ATTRIBUTES: Final = ("module-path", "pin-source")
_SECRET: Final = re.compile(r"\?|pin-value", re.IGNORECASE)
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


class Pkcs11Uri(NamedTuple):
    """What a URI says; None stands for "any"."""

    text: str
    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    slot_id: int | None = None
    label: str | None = None
    key_id: bytes | None = None
    module_path: str | None = None
    pin_file: str | None = None


def is_pkcs11_uri(text: str) -> bool:
    """Whether the name of a key is a PKCS#11 URI, not that of a file."""
    return text[: len(SCHEME)].lower() == SCHEME


def parse_pkcs11_uri(text: str) -> Pkcs11Uri:
    """Read a PKCS#11 URI.

    Raises:
        UsageError: it is malformed, names something that is no private key, has an attribute that is not known, or
            holds a PIN, which other users of the host could read.
    """
    if not is_pkcs11_uri(text) or len(text) > MAX_URI_LENGTH:
        raise _bad(text, f"is no PKCS#11 URI of at most {MAX_URI_LENGTH} characters")
    path, mark, query = text[len(SCHEME) :].partition("?")
    if mark and not query:
        raise _bad(text, "nothing follows the question mark")
    found = _attributes(text, path, ";") if path else {}
    if query:
        found |= _attributes(text, query, "&", taken=found)
    if "pin-value" in found:
        raise UsageError(
            f"{_shown(text)}…",
            "a PIN does not belong on a command line, where others can read it",
            "use pin-source=file:…, --passphrase-file, SIPL_PASSPHRASE or the prompt",
        )
    known = (*_TOKEN_ATTRIBUTES, *_KEY_ATTRIBUTES, *_QUERY_ATTRIBUTES)
    unknown = [name for name in found if name not in known]
    if unknown:
        raise _bad(text, f"the attribute '{unknown[0]}' is not known", f"known are {', '.join(known)}")
    if found.get("type", b"private") != b"private":
        raise _bad(text, "it names no private key", "leave type= out, or say type=private")
    texts = {name: _text(text, found.get(name)) for name in (*_TOKEN_ATTRIBUTES[:4], "object", *_QUERY_ATTRIBUTES)}
    return Pkcs11Uri(
        text,
        token=texts["token"],
        manufacturer=texts["manufacturer"],
        serial=texts["serial"],
        model=texts["model"],
        slot_id=_slot(text, found.get("slot-id")),
        label=texts["object"],
        key_id=found.get("id"),
        module_path=texts["module-path"],
        pin_file=_pin_file(text, texts["pin-source"]),
    )


def _attributes(uri: str, part: str, separator: str, taken: dict[str, bytes] | None = None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for attribute in part.split(separator):
        name, equals, value = attribute.partition("=")
        if not equals or not name:
            what = "a part" if separator == "&" else f"'{attribute}'"  # a PIN would not be repeated
            raise _bad(uri, f"{what} is no attribute", "attributes are NAME=VALUE")
        if name in found or (taken and name in taken):
            raise _bad(uri, f"the attribute '{name}' is there twice")
        found[name] = _decode(uri, value)
    return found


def _decode(uri: str, value: str) -> bytes:
    try:
        data = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _bad(uri, "a text in it is not UTF-8") from None
    if len(_ESCAPE.findall(data)) != data.count(b"%"):
        raise _bad(uri, "a percent sign is not followed by two hexadecimal digits", "write %25 for the sign itself")
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), data)


def _text(uri: str, value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad(uri, "a text in it is not UTF-8") from None
    if "\0" in text:
        raise _bad(uri, "a text in it has a zero byte")
    return text


def _slot(uri: str, value: bytes | None) -> int | None:
    if value is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,10}", value):
        raise _bad(uri, "slot-id is no number")
    return int(value)


def _pin_file(uri: str, source: str | None) -> str | None:
    """The file that holds the PIN: a `file:` URI or an absolute path; no command is started for it."""
    if source is None:
        return None
    path = re.sub(r"^file:(//(localhost)?(?=/))?", "", source)
    if not path.startswith("/") or path.startswith("//"):
        raise _bad(uri, "pin-source names no file", "write pin-source=file:/path")
    return path


def _bad(uri: str, why: str, hint: str = "see RFC 7512, for instance pkcs11:token=TOKEN;object=KEY") -> UsageError:
    return UsageError(_shown(uri), why, hint)


def _shown(uri: str) -> str:
    """The start of a URI without what may be a PIN: what is behind the question mark, or called one in front of it."""
    return _SECRET.split(uri, maxsplit=1)[0][:200]
