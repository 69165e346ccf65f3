"""SCLP event facility: the operator's console in line mode and as a VT220 (docs/formats/sclp-console.md).

The guest's output goes to a callback as it is: escaping what may drive a terminal is up to who shows it.
"""

from __future__ import annotations

from collections import deque
from enum import Flag, auto
from typing import TYPE_CHECKING, Final

from sipl.layout import sclp_events as ev
from sipl.layout.record import pack, size_of, unpack
from sipl.layout.sclp import SCCB_MAX_LENGTH, ResponseCode
from sipl.layout.sclp_events import EventCommand, EventResponse, EventType

if TYPE_CHECKING:
    from collections.abc import Callable

# What a guest that does not read may leave behind; as much as a pipe holds by default.
INPUT_LIMIT: Final = 64 * 1024
# Text of a line-mode command: two subvectors, whose lengths are one byte, surround it.
LINE_LIMIT: Final = ev.SUBVECTOR_MAX - 2 * size_of(ev.GdsSubvector)
# Linux takes it for the code page of every SCLP that is not z/VM's.
CODE_PAGE: Final = "cp500"

_EVENT_PENDING: Final = 0x1
_LINE_ENDS: Final = b"\r\n"
_NEW_LINE: Final = "\r\n"
# EBCDIC has two: new line and line feed.
_NEW_LINES: Final = str.maketrans({"\x85": _NEW_LINE, "\n": _NEW_LINE})
_HEADER: Final = size_of(ev.EventHeader)
_TEXT_HEADER: Final = size_of(ev.TextObject)
_OBJECT_HEADER: Final = size_of(ev.MessageObject)
_BLOCK_HEADER: Final = size_of(ev.MessageDataBlock)

Response = ResponseCode | EventResponse


class Consoles(Flag):
    """The consoles that a machine offers.

    With both, Linux writes its first lines to both.
    """

    NONE = 0
    VT220 = auto()
    LINE = auto()


def event_bit(event: int) -> int:
    """The bit of an event type (1 to 64) in a mask that is seen as a number of 64 bits."""
    return 1 << (8 * ev.MASK_BYTES_KNOWN - event)


_LINE_INPUT: Final = event_bit(EventType.OPERATOR_COMMAND) | event_bit(EventType.PRIORITY_MESSAGE)
_LINE_OUTPUT: Final = event_bit(EventType.MESSAGE) | event_bit(EventType.PRIORITY_MESSAGE)
_VT220: Final = event_bit(EventType.VT220)
_STATE_CHANGE: Final = event_bit(EventType.STATE_CHANGE)
_QUIESCE: Final = event_bit(EventType.QUIESCE)


class EventFacility:
    """Event facility of the SCLP, and the service-signal interruption of all its commands.

    `write` takes what the guest writes: bytes of the VT220 as they are; lines of the line mode as UTF-8, each with
    carriage return and line feed behind it. `on_service_signal` is called whenever an interruption becomes pending.
    All calls must come from the thread that runs the guest.
    """

    __slots__ = (
        "_completed",
        "_consoles",
        "_events",
        "_input",
        "_mask_length",
        "_news",
        "_receive_mask",
        "_skip_line_feed",
        "_write",
        "control_program",
        "on_service_signal",
    )

    def __init__(
        self,
        write: Callable[[bytes], object],
        consoles: Consoles = Consoles.VT220,
        on_service_signal: Callable[[], object] | None = None,
    ) -> None:
        self._write = write
        self._consoles = consoles
        self.on_service_signal = on_service_signal
        self._input = bytearray()
        self._events: deque[tuple[EventType, bytes]] = deque()
        self.control_program: ev.ControlProgramId | None = None  # what the guest said of itself
        self.reset()

    def reset(self) -> None:
        """Subsystem reset: the guest receives nothing, nothing is pending, input that was not read is gone."""
        self._receive_mask = 0
        self._mask_length = ev.MASK_LENGTH_DEFAULT
        self._input.clear()
        self._events.clear()
        self._skip_line_feed = False
        self._completed: int | None = None
        self._news = False
        self.control_program = None

    # Commands

    def command(self, command: int, sccb: bytearray) -> Response:
        """Carry out an event command; `sccb` is the whole block, changed in place but for the response code.

        It must be as long as its length field says, and at least 8 bytes.
        """
        match command:
            case EventCommand.WRITE_EVENT_DATA:
                return self._write_event_data(sccb)
            case EventCommand.READ_EVENT_DATA:
                return self._read_event_data(sccb)
            case EventCommand.WRITE_EVENT_MASK:
                return self._write_event_mask(sccb)
            case _:
                return ResponseCode.INVALID_COMMAND

    def _write_event_mask(self, sccb: bytearray) -> Response:
        if len(sccb) < ev.MASKS_OFFSET:
            return ResponseCode.INSUFFICIENT_LENGTH
        length = int.from_bytes(sccb[ev.MASK_LENGTH_OFFSET : ev.MASKS_OFFSET], "big")
        if not 0 < length <= ev.MASK_LENGTH_MAX:
            return EventResponse.INVALID_MASK_LENGTH
        receives, sends = ev.MASKS_OFFSET + 2 * length, ev.MASKS_OFFSET + 3 * length
        if len(sccb) < sends + length:
            return ResponseCode.INSUFFICIENT_LENGTH
        self._receive_mask = _mask(sccb[ev.MASKS_OFFSET : ev.MASKS_OFFSET + length])
        self._mask_length = length
        sccb[receives:sends] = _mask_field(self._receives(), length)
        sccb[sends : sends + length] = _mask_field(self._sends(), length)
        # The answer tells the state as it is.
        self._drop(EventType.STATE_CHANGE)
        return EventResponse.OK

    def _read_event_data(self, sccb: bytearray) -> Response:
        if len(sccb) != SCCB_MAX_LENGTH:
            return ResponseCode.INSUFFICIENT_LENGTH
        match sccb[ev.FUNCTION_CODE_OFFSET]:
            case ev.READ_UNCONDITIONAL:
                selected = self._receive_mask
            case ev.READ_SELECTIVE:
                selected = _mask(sccb[ev.EVENTS_OFFSET : ev.EVENTS_OFFSET + self._mask_length])
                if not self._receive_mask or selected & ~self._receive_mask:
                    return EventResponse.INVALID_SELECTION_MASK
            case _:
                return EventResponse.INVALID_FUNCTION
        stored = self._take_events(selected, SCCB_MAX_LENGTH - ev.EVENTS_OFFSET)
        end = ev.EVENTS_OFFSET + len(stored)
        # Zeros behind the last event end the list for who does not look at the length.
        sccb[ev.EVENTS_OFFSET :] = stored.ljust(SCCB_MAX_LENGTH - ev.EVENTS_OFFSET, b"\0")
        if sccb[ev.CONTROL_MASK_OFFSET] & ev.VARIABLE_LENGTH:
            sccb[ev.CONTROL_MASK_OFFSET] &= ~ev.VARIABLE_LENGTH
            sccb[0:2] = end.to_bytes(2, "big")
        return EventResponse.OK if stored else EventResponse.NO_EVENT_STORED

    def _write_event_data(self, sccb: bytearray) -> Response:
        if sccb[ev.FUNCTION_CODE_OFFSET] != ev.WRITE_NORMAL:
            return EventResponse.INVALID_FUNCTION
        events = []
        at = ev.EVENTS_OFFSET
        while at < len(sccb):
            room = len(sccb) - at
            if room < _HEADER:
                return EventResponse.EVENT_SYNTAX_ERROR
            header = unpack(ev.EventHeader, sccb, at)
            if not _HEADER <= header.length <= room:
                return EventResponse.EVENT_SYNTAX_ERROR
            events.append((at, header))
            at += header.length
        response: Response = EventResponse.OK
        for at, header in events:
            if response is EventResponse.OK:
                response = self._accept(header.type, bytes(sccb[at + _HEADER : at + header.length]))
            flags = at + 3
            if response is EventResponse.OK:
                sccb[flags] |= ev.EVENT_ACCEPTED
            else:
                sccb[flags] &= ~ev.EVENT_ACCEPTED
        return response

    def _accept(self, event: int, data: bytes) -> EventResponse:
        if not 0 < event <= 8 * ev.MASK_BYTES_KNOWN or not self._receives() & event_bit(event):
            return EventResponse.INVALID_FUNCTION
        if event == EventType.VT220:
            if data:
                self._write(data)
            return EventResponse.OK
        if event == EventType.CONTROL_PROGRAM_ID:
            if len(data) < size_of(ev.ControlProgramId):
                return EventResponse.EVENT_SYNTAX_ERROR
            self.control_program = unpack(ev.ControlProgramId, data)
            return EventResponse.OK
        lines = _message_lines(data)
        if lines is None:
            return EventResponse.INCONSISTENT_LENGTHS
        if lines:
            self._write("".join(_line_text(line) for line in lines).encode("utf-8"))
        return EventResponse.OK

    # The operator's side

    @property
    def consoles(self) -> Consoles:
        """What is offered now."""
        return self._consoles

    def offer(self, consoles: Consoles) -> None:
        """Change what is offered; a guest that asked for it is told by a state-change event."""
        if consoles == self._consoles:
            return
        self._consoles = consoles
        self._drop(EventType.STATE_CHANGE)
        length = self._mask_length
        change = ev.StateChange(ev.StateValid.RECEIVE_MASK | ev.StateValid.SEND_MASK, length, 0)
        masks = _mask_field(self._receives(), length) + _mask_field(self._sends(), length)
        self._queue(EventType.STATE_CHANGE, pack(change) + masks + bytes(ev.STATE_CHANGE_TAIL))

    def feed(self, data: bytes) -> int:
        """Queue what the operator types; returns how many bytes were taken, the rest may be offered again later.

        The guest reads it from the VT220 if it listens there, otherwise line by line. A line ends with carriage return
        or line feed; of its text `LINE_LIMIT` characters are kept.
        """
        skip = 0
        if self._skip_line_feed and data:
            self._skip_line_feed = False
            skip = int(data[:1] == b"\n")
        taken = data[skip : skip + INPUT_LIMIT - len(self._input)]
        self._input += taken
        if taken:
            self._notify()
        return skip + len(taken)

    @property
    def input_waiting(self) -> int:
        """Bytes that were fed and not read."""
        return len(self._input)

    def quiesce(self) -> bool:
        """Ask the guest to shut down; False if it does not listen to that."""
        if not self._receive_mask & _QUIESCE:
            return False
        self._drop(EventType.QUIESCE)
        self._queue(EventType.QUIESCE, pack(ev.Quiesce(0, 0)))
        return True

    # Service-signal interruption

    def completed(self, address: int) -> None:
        """A command has completed: its SCCB becomes the parameter of the pending interruption.

        One interruption is pending at most; a later command takes its place.
        """
        self._completed = address
        if self.on_service_signal is not None:
            self.on_service_signal()

    @property
    def pending_parameter(self) -> int | None:
        """The parameter that the next service-signal interruption will have, or None if none is pending."""
        waiting = _EVENT_PENDING if self._ready() else 0
        if self._completed is not None:
            return self._completed | waiting
        return waiting if self._news and waiting else None

    def take_service_signal(self) -> int | None:
        """Take the pending interruption: its parameter (32 bits), or None if there is none.

        The parameter is the address of the SCCB of the completed command, or 0, with bit 31 (0x1) for pending events.
        """
        parameter = self.pending_parameter
        self._completed = None
        if parameter is not None:
            self._news = False
        return parameter

    # What the SCLP has for the guest

    def _receives(self) -> int:
        mask = event_bit(EventType.CONTROL_PROGRAM_ID)
        if Consoles.VT220 in self._consoles:
            mask |= _VT220
        if Consoles.LINE in self._consoles:
            mask |= _LINE_OUTPUT
        return mask

    def _sends(self) -> int:
        mask = _QUIESCE | _STATE_CHANGE
        if Consoles.VT220 in self._consoles:
            mask |= _VT220
        if Consoles.LINE in self._consoles:
            mask |= _LINE_INPUT
        return mask

    def _queue(self, event: EventType, payload: bytes) -> None:
        self._events.append((event, payload))
        self._notify()

    def _drop(self, event: EventType) -> None:
        for queued in [queued for queued in self._events if queued[0] is event]:
            self._events.remove(queued)

    def _notify(self) -> None:
        self._news = True
        if self.on_service_signal is not None and self._ready():
            self.on_service_signal()

    def _ready(self) -> bool:
        """Whether something waits that the guest receives."""
        mask = self._receive_mask
        if any(mask & event_bit(event) for event, _ in self._events):
            return True
        mask &= self._sends()
        return bool(self._input) and bool(mask & _VT220 or (mask & _LINE_INPUT and self._line_end() is not None))

    def _take_events(self, selected: int, room: int) -> bytes:
        stored = bytearray()
        for queued in [queued for queued in self._events if selected & event_bit(queued[0])]:
            event = _event(*queued)
            if len(stored) + len(event) <= room:
                self._events.remove(queued)
                stored += event
        selected &= self._sends()
        if selected & _VT220:
            stored += self._take_characters(room - len(stored))
        elif selected & _LINE_INPUT:
            commands = selected & event_bit(EventType.OPERATOR_COMMAND)
            kind = EventType.OPERATOR_COMMAND if commands else EventType.PRIORITY_MESSAGE
            longest = len(_event(kind, _operator_command(bytes(LINE_LIMIT))))
            while len(stored) + longest <= room and (line := self._take_line()) is not None:
                stored += _event(kind, _operator_command(line))
        return bytes(stored)

    def _take_characters(self, room: int) -> bytes:
        count = min(len(self._input), room - _HEADER - 1)
        if count <= 0:
            return b""
        characters = bytes(self._input[:count])
        del self._input[:count]
        return _event(EventType.VT220, bytes((ev.SESSION_DATA,)) + characters)

    def _line_end(self) -> int | None:
        """Where the first line of the input ends; an input that is full ends there, for more cannot come."""
        ends = [at for end in _LINE_ENDS if (at := self._input.find(end)) >= 0]
        if ends:
            return min(ends)
        return len(self._input) if len(self._input) >= INPUT_LIMIT else None

    def _take_line(self) -> bytes | None:
        end = self._line_end()
        if end is None:
            return None
        line = bytes(self._input[:end])
        returned = self._input[end : end + 1] == b"\r"
        del self._input[: end + 1]
        if returned:
            if self._input[:1] == b"\n":
                del self._input[:1]
            else:
                self._skip_line_feed = not self._input
        return line.decode("utf-8", "replace")[:LINE_LIMIT].encode(CODE_PAGE, "replace")


def _mask(field: bytes | bytearray) -> int:
    """A mask of any length as a number of 64 bits."""
    return int.from_bytes(field[: ev.MASK_BYTES_KNOWN].ljust(ev.MASK_BYTES_KNOWN, b"\0"), "big")


def _mask_field(mask: int, length: int) -> bytes:
    return mask.to_bytes(ev.MASK_BYTES_KNOWN, "big")[:length].ljust(length, b"\0")


def _event(event: EventType, payload: bytes) -> bytes:
    return pack(ev.EventHeader(_HEADER + len(payload), event, 0)) + payload


def _operator_command(text: bytes) -> bytes:
    """A line of EBCDIC in its five wrappings."""
    for key in (ev.TEXT_MESSAGE, ev.SELF_DEFINING_TEXT):
        text = pack(ev.GdsSubvector(size_of(ev.GdsSubvector) + len(text), key)) + text
    for identifier in (ev.TEXT_COMMAND, ev.CONTROL_POINT_UNIT, ev.MESSAGE_UNIT):
        text = pack(ev.GdsVector(size_of(ev.GdsVector) + len(text), identifier)) + text
    return text


def _message_lines(data: bytes) -> list[bytes] | None:
    """The texts of a message in EBCDIC, or None if its lengths do not fit together."""
    if len(data) < _BLOCK_HEADER:
        return None
    end = unpack(ev.MessageDataBlock, data).length
    if not _BLOCK_HEADER <= end <= len(data):
        return None
    lines = []
    at = _BLOCK_HEADER
    while at < end:
        if end - at < _OBJECT_HEADER:
            return None
        head = unpack(ev.MessageObject, data, at)
        shortest = _TEXT_HEADER if head.type == ev.TEXT_OBJECT else _OBJECT_HEADER
        if not shortest <= head.length <= end - at:
            return None
        if head.type == ev.TEXT_OBJECT:
            lines.append(data[at + _TEXT_HEADER : at + head.length])
        at += head.length
    return lines


def _line_text(line: bytes) -> str:
    """Every text object is a line of its own, whatever kind of line it is."""
    return line.decode(CODE_PAGE).translate(_NEW_LINES) + _NEW_LINE
