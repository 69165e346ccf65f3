"""CHANNEL SUBSYSTEM CALL: the few commands that an operating system's start needs (docs/formats/channel-io.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sipl.layout.css import (
    CHARACTERISTICS_CHSC_SIZE,
    CHARACTERISTICS_CSS,
    CHARACTERISTICS_FORMAT,
    CHARACTERISTICS_GENERAL_SIZE,
    CHARACTERISTICS_RESERVED,
    CHP_COMMON,
    CHP_CSS,
    CHP_DESCRIPTION_SIZES,
    CHP_FORMAT,
    CHP_RESERVED_1,
    CHP_RESERVED_2,
    CHP_RESPONSE_FORMAT_SHIFT,
    CHP_TYPE_SHIFT,
    CHP_VALID,
    CHSC_CHANNEL_PATH_DESCRIPTION,
    CHSC_CHARACTERISTICS,
    CHSC_EVENT_INFORMATION,
    CHSC_MAX_REQUEST,
    CHSC_MIN_REQUEST,
    CHSC_MIN_RESPONSE,
    CHSC_RESPONSE_INVALID_CSS,
    CHSC_RESPONSE_INVALID_FORMAT,
    CHSC_RESPONSE_INVALID_REQUEST,
    CHSC_RESPONSE_NO_EVENT,
    CHSC_RESPONSE_NO_SUCH_FACILITY,
    CHSC_RESPONSE_OK,
    CHSC_RESPONSE_UNSUPPORTED,
    CHSC_SET_DOMAIN_ATTRIBUTE,
    GENERAL_WORD_1,
    SDA_FORMAT,
    SDA_MULTIPLE_CSS,
    SDA_MULTIPLE_SETS,
    SDA_OPERATION,
    SDA_REQUEST_LENGTH,
    SDA_RESERVED,
    ChscRequest,
    ChscResponse,
)
from sipl.layout.record import pack, unpack
from sipl.layout.virtio import CHANNEL_PATH_TYPE
from sipl.machine.css.subchannel import CHPID
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from sipl.layout.record import Buffer


class Reply(NamedTuple):
    """The response, and where in the block it goes."""

    offset: int
    data: bytes
    several_sets: bool  # the guest may use more than one subchannel set from now on


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"response code {code:#06x}")


def answer(block: Buffer, *, paths: bool) -> Reply:
    """Answer the request in a block of 4096 bytes; `paths` says whether there is a channel path.

    Raises:
        ProgramInterruption: operand, for a length that no request can have.
    """
    request = unpack(ChscRequest, block)
    if not CHSC_MIN_REQUEST <= request.length <= CHSC_MAX_REQUEST or request.length % 8:
        raise ProgramInterruption(ProgramCode.OPERAND)
    code, word, data, several = CHSC_RESPONSE_OK, 0, b"", False
    try:
        if request.command == CHSC_CHANNEL_PATH_DESCRIPTION:
            word, data = _channel_path_description(request, paths)
        elif request.command == CHSC_CHARACTERISTICS:
            data = _characteristics(request)
        elif request.command == CHSC_SET_DOMAIN_ATTRIBUTE:
            several = _set_domain_attribute(request)
        else:
            no_event = request.command == CHSC_EVENT_INFORMATION
            raise _Refused(CHSC_RESPONSE_NO_EVENT if no_event else CHSC_RESPONSE_UNSUPPORTED)
    except _Refused as refused:
        code = refused.code
    response = pack(ChscResponse(CHSC_MIN_RESPONSE + len(data), code, word)) + data
    return Reply(request.length, response, several)


def _check(valid: bool, code: int = CHSC_RESPONSE_INVALID_REQUEST) -> None:
    if not valid:
        raise _Refused(code)


def _channel_path_description(request: ChscRequest, paths: bool) -> tuple[int, bytes]:
    _check(request.length == CHSC_MIN_REQUEST and not request.word_1 & CHP_RESERVED_1)
    _check(not request.word_2 & CHP_RESERVED_2 and not request.word_3)
    _check(not request.word_1 & CHP_FORMAT, CHSC_RESPONSE_INVALID_FORMAT)
    _check(not request.word_1 & CHP_CSS, CHSC_RESPONSE_INVALID_CSS)
    form = request.word_1 >> CHP_RESPONSE_FORMAT_SHIFT & 0xF
    if form <= 1:
        form = int(bool(request.word_1 & CHP_COMMON))
    _check(form < len(CHP_DESCRIPTION_SIZES), CHSC_RESPONSE_INVALID_FORMAT)
    first, last = request.word_1 & 0xFF, request.word_2 & 0xFF
    _check(first <= last)
    if not paths or not first <= CHPID <= last:
        return form, b""
    description = CHP_VALID | CHANNEL_PATH_TYPE << CHP_TYPE_SHIFT | CHPID
    return form, description.to_bytes(4, "big").ljust(CHP_DESCRIPTION_SIZES[form], b"\0")


def _characteristics(request: ChscRequest) -> bytes:
    _check(request.length == CHSC_MIN_REQUEST)
    _check(not request.word_1 & CHARACTERISTICS_FORMAT, CHSC_RESPONSE_INVALID_FORMAT)
    _check(not request.word_1 & CHARACTERISTICS_CSS, CHSC_RESPONSE_INVALID_CSS)
    _check(not (request.word_1 & CHARACTERISTICS_RESERVED or request.word_2 or request.word_3))
    general = bytes(4) + GENERAL_WORD_1.to_bytes(4, "big")
    return general.ljust(CHARACTERISTICS_GENERAL_SIZE, b"\0") + bytes(CHARACTERISTICS_CHSC_SIZE)


def _set_domain_attribute(request: ChscRequest) -> bool:
    _check(request.length == SDA_REQUEST_LENGTH and not request.word_1 & SDA_RESERVED)
    _check(not request.word_1 & SDA_FORMAT, CHSC_RESPONSE_INVALID_FORMAT)
    operation = request.word_1 & SDA_OPERATION
    _check(operation != SDA_MULTIPLE_CSS, CHSC_RESPONSE_NO_SUCH_FACILITY)
    _check(operation == SDA_MULTIPLE_SETS)
    return True
