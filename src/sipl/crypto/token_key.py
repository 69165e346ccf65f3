"""A private key on a token, used through PKCS#11: it signs digests and never leaves the token (docs/signing.md).

The package `pkcs11` (python-pkcs11) is an extra: nothing else needs it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from sipl.crypto.algorithms import KeyKind
from sipl.crypto.keys import digest_info
from sipl.crypto.signing import SigningError
from sipl.errors import SiplError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pkcs11

    from sipl.crypto.pkcs11_uri import Pkcs11Uri

# p11-kit offers the modules that the host's administrator has set up, under this one name.
DEFAULT_MODULE: Final = "p11-kit-proxy.so"
MODULE_VARIABLE: Final = "PKCS11_MODULE_PATH"
# A token can offer any number of objects; who means one key names it more closely.
MAX_KEYS: Final = 64


class Pkcs11Missing(SiplError):
    """The package that speaks PKCS#11 is not installed. Exit code 2."""

    def __init__(self) -> None:
        super().__init__("PKCS#11", "the Python package python-pkcs11 is missing", "pip install 'sipl[pkcs11]'")


class TokenKey:
    """One private key on a token, in a session that is open until `close`.

    `ask_pin` is called with the token's label if the token wants a PIN and has no keypad of its own.

    Raises:
        Pkcs11Missing: the package is not installed.
        SigningError: no module, no such token or key, more than one, a PIN that is refused, a key of another kind.
    """

    def __init__(self, uri: Pkcs11Uri, ask_pin: Callable[[str], bytes]) -> None:
        self._where = uri.text
        self._session: Any = None
        self._key: Any = None
        self._pin: str | None = None
        try:
            import pkcs11
        except ImportError:
            raise Pkcs11Missing from None
        self._pkcs11 = pkcs11
        try:
            self._open(uri, ask_pin)
        except BaseException:
            self.close()
            raise

    def _open(self, uri: Pkcs11Uri, ask_pin: Callable[[str], bytes]) -> None:
        token = self._find_token(uri)
        flags = self._pkcs11.TokenFlag
        pin: Any = None
        if flags.PROTECTED_AUTHENTICATION_PATH in token.flags:
            pin = self._pkcs11.PROTECTED_AUTH
        elif flags.LOGIN_REQUIRED in token.flags:
            try:
                self._pin = pin = ask_pin(token.label).decode("utf-8")
            except UnicodeDecodeError:
                raise SigningError(self._where, "the PIN is not UTF-8") from None
        try:
            self._session = token.open(user_pin=pin)
        except self._pkcs11.PKCS11Error as error:
            hint = ""
            if isinstance(error, self._pkcs11.PinIncorrect | self._pkcs11.PinLenRange | self._pkcs11.PinInvalid):
                hint = "a token locks itself after a few wrong ones"
            raise SigningError(self._where, f"the token does not let us in: {_text(error)}", hint) from None
        self._key = self._find_key(uri)
        kinds = {self._pkcs11.KeyType.RSA: KeyKind.RSA, self._pkcs11.KeyType.EC: KeyKind.EC}
        if self._key.key_type not in kinds:
            raise SigningError(self._where, "the key is neither RSA nor elliptic curve")
        self._kind = kinds[self._key.key_type]

    @property
    def kind(self) -> KeyKind:
        """What the key computes with."""
        return self._kind

    def sign_digest(self, digest: str, hashed: bytes) -> bytes:
        """Have the token sign a digest of the kind `digest` (as in hashlib), `hashed`.

        Raises:
            SigningError: the token refuses.
        """
        if self._key is None:
            raise SigningError(self._where, "the session with the token is closed")
        mechanisms = self._pkcs11.Mechanism
        # The token gets the digest, not the file: a smart card would take minutes for a kernel.
        rsa = self._kind is KeyKind.RSA
        data = digest_info(digest, hashed) if rsa else hashed
        try:
            made: bytes = self._key.sign(
                data, mechanism=mechanisms.RSA_PKCS if rsa else mechanisms.ECDSA, **self._pin_again()
            )
        except self._pkcs11.PKCS11Error as error:
            raise SigningError(self._where, f"the token does not sign: {_text(error)}") from None
        return made if rsa else as_der(made)

    def _pin_again(self) -> dict[str, str]:
        """Some keys (those for signatures on PIV cards) want the PIN for every single use."""
        attribute = self._pkcs11.Attribute.ALWAYS_AUTHENTICATE
        try:
            wanted = bool(self._key[attribute])
        except self._pkcs11.PKCS11Error:
            wanted = False
        return {"pin": self._pin} if wanted and self._pin is not None else {}

    def close(self) -> None:
        """Close the session; closing twice is allowed."""
        session, self._session, self._key, self._pin = self._session, None, None, None
        if session is not None:
            try:
                session.close()
            except self._pkcs11.PKCS11Error:
                return  # the token is gone, and with it the session

    def _find_token(self, uri: Pkcs11Uri) -> pkcs11.Token:
        module = uri.module_path or os.environ.get(MODULE_VARIABLE) or DEFAULT_MODULE
        try:
            slots = self._pkcs11.lib(module).get_slots(token_present=True)
            tokens = [slot.get_token() for slot in slots if uri.slot_id in (None, slot.slot_id)]
            found = [token for token in tokens if self._is_meant(uri, token)]
        except self._pkcs11.PKCS11Error as error:
            hint = f"name the module with ?module-path=… or ${MODULE_VARIABLE}"
            raise SigningError(
                self._where, f"the PKCS#11 module {module} cannot be used: {_text(error)}", hint
            ) from None
        if len(found) != 1:
            there = ", ".join(token.label for token in tokens) or "none"
            why = "no such token is there" if not found else f"{len(found)} tokens are meant"
            raise SigningError(self._where, why, f"name one with token=…; there are: {there}")
        return found[0]

    def _is_meant(self, uri: Pkcs11Uri, token: pkcs11.Token) -> bool:
        initialized = self._pkcs11.TokenFlag.TOKEN_INITIALIZED in token.flags
        serial = token.serial.decode("utf-8", "replace").strip()
        pairs = (
            (uri.token, token.label),
            (uri.manufacturer, token.manufacturer_id),
            (uri.serial, serial),
            (uri.model, token.model),
        )
        return initialized and all(wanted is None or wanted == there for wanted, there in pairs)

    def _find_key(self, uri: Pkcs11Uri) -> pkcs11.PrivateKey:
        attribute = self._pkcs11.Attribute
        wanted: dict[Any, Any] = {attribute.CLASS: self._pkcs11.ObjectClass.PRIVATE_KEY}
        if uri.label is not None:
            wanted[attribute.LABEL] = uri.label
        if uri.key_id is not None:
            wanted[attribute.ID] = uri.key_id
        try:
            # The search must have come to its end before the session can do anything else.
            found = [key for key, _ in zip(self._session.get_objects(wanted), range(MAX_KEYS), strict=False)]
            labels = ", ".join(str(key.label) for key in found)
        except self._pkcs11.PKCS11Error as error:
            raise SigningError(self._where, f"the token cannot be searched: {_text(error)}") from None
        if not found:
            raise SigningError(self._where, "no such private key is on the token", "check object=… and id=…")
        if len(found) > 1:
            raise SigningError(
                self._where, f"{len(found)} private keys are meant: {labels}", "name one with object= or id="
            )
        key: pkcs11.PrivateKey = found[0]
        return key


def as_der(made: bytes) -> bytes:
    """An ECDSA signature in DER: tokens give r and s one behind the other, a PKCS#7 holds them as a SEQUENCE."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    half = len(made) // 2
    return encode_dss_signature(int.from_bytes(made[:half], "big"), int.from_bytes(made[half:], "big"))


def _text(error: Exception) -> str:
    """PKCS#11 errors are told by their class; some have a text, too."""
    return f"{type(error).__name__} {error}".strip()
