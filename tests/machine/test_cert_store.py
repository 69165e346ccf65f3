"""The certificate store: what is taken, what is refused, in which order, and the sizes the guest is told."""

from __future__ import annotations

import os
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipl.crypto.pem import MAX_CERTIFICATE_FILE
from sipl.errors import RefusedToStart
from sipl.machine import cert_store
from sipl.machine.cert_store import MAX_DER_SIZE, MAX_DIRECTORY_ENTRIES, CertStore
from sipl.reasons import Reason

KEY = Ed25519PrivateKey.generate()  # its signatures are all of one length
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])


def make_certificate(padding: int = 0, not_after: int = 2050) -> x509.Certificate:
    """A certificate with an extension of `padding` bytes that nobody knows."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(KEY.public_key())
        .serial_number(1000)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(not_after, 1, 1, tzinfo=UTC))
    )
    if padding:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, bytes(padding)), critical=False)
    return builder.sign(KEY, None)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_of_size(size: int) -> x509.Certificate:
    def der_size(padding: int) -> int:
        return len(make_certificate(padding).public_bytes(serialization.Encoding.DER))

    guess = size - der_size(size - 300) + size - 300
    return make_certificate(next(padding for padding in range(guess - 8, guess + 8) if der_size(padding) == size))


CERTIFICATE = make_certificate()
PEM = pem(CERTIFICATE)
DER = CERTIFICATE.public_bytes(serialization.Encoding.DER)


class Warnings(list):
    def __call__(self, reason, where, why, hint):
        self.append((reason, where, why))
        assert hint


def load(*paths):
    warnings = Warnings()
    return CertStore.load([str(path) for path in paths], warnings), warnings


def refused(*paths) -> RefusedToStart:
    with pytest.raises(RefusedToStart) as error:
        load(*paths)
    assert str(error.value).isprintable()
    return error.value


def put(folder, *names, data: bytes = PEM):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(data)
    return folder


def names_of(store: CertStore) -> list[str]:
    return [entry.name.decode("cp037").rstrip() for entry in store.entries]


def test_empty_store():
    store, warnings = load()
    assert (store.count, store.entries, warnings) == (0, (), [])
    assert CertStore().count == 0


def test_sizes_of_two_certificates(tmp_path):
    larger = make_certificate(1001)
    put(tmp_path, "a.pem")
    put(tmp_path, "b.pem", data=pem(larger))
    store, warnings = load(tmp_path / "a.pem", tmp_path / "b.pem")
    sizes = [(len(DER) + 3) // 4 * 4, (len(larger.public_bytes(serialization.Encoding.DER)) + 3) // 4 * 4]
    assert warnings == []
    assert store.count == 2
    assert [entry.vce_length for entry in store.entries] == [192 + size for size in sizes]
    assert store.largest == 64 + sizes[1]
    assert store.total == 128 + sum(sizes)
    assert store.max_single_vcb_len == 256 + sizes[1]
    assert store.total_vcb_len == 64 + 128 * 2 + store.total
    assert store.entries[0].certificate.der == DER


@pytest.mark.parametrize(("size", "rounded"), [(640, 640), (641, 644), (642, 644), (643, 644)])
def test_sizes_are_rounded_up_to_words(tmp_path, size, rounded):
    put(tmp_path, "a.pem", data=pem(certificate_of_size(size)))
    assert load(tmp_path)[0].entries[0].vce_length == 192 + rounded


def test_options_keep_their_order_and_duplicates_count(tmp_path):
    put(tmp_path, "b.pem", "a.pem")
    store, _ = load(tmp_path / "b.pem", tmp_path, tmp_path / "b.pem")
    assert names_of(store) == ["b.pem", "a.pem", "b.pem", "b.pem"]
    assert store.entries[1].path == str(tmp_path / "a.pem")


def test_directory_is_sorted_and_not_recursive(tmp_path):
    put(tmp_path, "z.pem", "B.pem", "a.pem", ".hidden.pem", ".pem")
    put(tmp_path / "below", "c.pem")
    store, warnings = load(tmp_path)
    assert names_of(store) == [".hidden.pem", ".pem", "B.pem", "a.pem", "z.pem"]
    assert [(reason, where) for reason, where, _ in warnings] == [(Reason.CERTIFICATE_SKIPPED, str(tmp_path / "below"))]


def test_what_is_no_pem_in_a_directory_is_skipped_with_a_warning(tmp_path):
    put(tmp_path, "a.crt", "a.PEM", "a.pem.bak")
    store, warnings = load(tmp_path)
    assert store.count == 0
    assert [(reason, where) for reason, where, _ in warnings] == [
        (Reason.CERTIFICATE_SKIPPED, str(tmp_path / name)) for name in ("a.PEM", "a.crt", "a.pem.bak")
    ]


def test_empty_directory_is_a_warning(tmp_path):
    store, warnings = load(tmp_path)
    assert store.count == 0
    assert [(reason, where) for reason, where, _ in warnings] == [(Reason.CERTIFICATE_DIRECTORY_EMPTY, str(tmp_path))]


def test_symbolic_links_are_followed_and_give_the_name(tmp_path):
    put(tmp_path / "real", "a.crt")
    (tmp_path / "link.pem").symlink_to(tmp_path / "real" / "a.crt")
    assert names_of(load(tmp_path / "link.pem")[0]) == ["link.pem"]


def test_relative_path(tmp_path, monkeypatch):
    put(tmp_path, "a.pem")
    monkeypatch.chdir(tmp_path)
    assert load("a.pem", ".")[0].count == 2


def test_name_is_cut_at_64_bytes(tmp_path):
    put(tmp_path, "n" * 90 + ".pem")
    entry = load(tmp_path)[0].entries[0]
    assert entry.name == b"\x95" * 64


def test_a_name_that_is_no_utf_8_is_taken(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe1.pem")
    try:
        Path(path).write_bytes(PEM)
    except OSError:
        pytest.skip("this file system takes no name that is not UTF-8")
    assert load(tmp_path)[0].entries[0].name[:3] == b"\xff\x59\x4b"


def test_certificates_load_whatever_they_are_good_for(tmp_path):
    put(tmp_path, "expired.pem", data=pem(make_certificate(not_after=2021)))
    assert load(tmp_path)[0].count == 1


def test_text_around_the_certificate_is_taken(tmp_path):
    put(tmp_path, "a.pem", data=b"\xef\xbb\xbfsubject=store\r\n" + PEM.replace(b"\n", b"\r\n") + PEM)
    assert load(tmp_path)[0].entries[0].certificate.der == DER


@pytest.mark.parametrize("count", [1, 64])
def test_t1_64_certificates_are_allowed(tmp_path, count):
    put(tmp_path, *(f"c{number:03}.pem" for number in range(count)))
    store, _ = load(tmp_path)
    assert store.count == count
    assert names_of(store)[-1] == f"c{count - 1:03}.pem"


def test_t1_the_65th_refuses_the_start_before_any_is_read(tmp_path):
    put(tmp_path, *(f"c{number:03}.pem" for number in range(65)), data=b"nothing that could be read")
    error = refused(tmp_path)
    assert error.reason == Reason.TOO_MANY_CERTIFICATES
    assert "65" in error.why


def test_t1_certificates_of_all_paths_count(tmp_path):
    put(tmp_path / "d", *(f"c{number:03}.pem" for number in range(64)))
    assert refused(tmp_path / "d", tmp_path / "d" / "c000.pem").reason == Reason.TOO_MANY_CERTIFICATES


def test_the_number_is_looked_at_after_all_paths(tmp_path):
    put(tmp_path, *(f"c{number:03}.pem" for number in range(65)))
    assert refused(tmp_path, tmp_path / "missing.pem").reason == Reason.CERTIFICATE_PATH


def test_paths_are_looked_at_before_any_file_is_read(tmp_path):
    put(tmp_path, "bad.pem", data=b"")
    assert refused(tmp_path, "").reason == Reason.CERTIFICATE_PATH


@pytest.mark.parametrize(("size", "good"), [(7997, True), (8000, True), (8001, False)])
def test_t17_size_of_a_certificate(tmp_path, size, good):
    put(tmp_path, "a.pem", data=pem(certificate_of_size(size)))
    if good:
        assert load(tmp_path)[0].entries[0].vce_length == 192 + MAX_DER_SIZE
    else:
        error = refused(tmp_path)
        assert error.reason == Reason.CERTIFICATE_TOO_LARGE
        assert str(size) in error.why


def test_empty_path_is_refused():
    error = refused("")
    assert error.reason == Reason.CERTIFICATE_PATH
    assert error.why == "a certificate path is empty"


@pytest.mark.parametrize("name", ["missing.pem", "a.pem/b.pem", "a\0.pem", "\ud800.pem"])
def test_a_path_that_leads_nowhere_is_refused(tmp_path, name):
    put(tmp_path, "a.pem")
    error = refused(f"{tmp_path}/{name}")
    assert error.reason == Reason.CERTIFICATE_PATH
    assert error.why.startswith("cannot be found: ")


@pytest.mark.parametrize("name", ["a.crt", "a.PEM", "a.pem ", "pem"])
def test_a_file_of_another_name_is_refused(tmp_path, name):
    put(tmp_path, name)
    assert refused(tmp_path / name).reason == Reason.CERTIFICATE_NOT_PEM


def test_a_device_is_neither_file_nor_directory():
    assert refused("/dev/null").reason == Reason.CERTIFICATE_PATH


@pytest.fixture
def no_waiting():
    """A store that blocks would block for ever."""
    if not hasattr(signal, "alarm"):
        pytest.skip("no alarm on this system")
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.mark.usefixtures("no_waiting")
def test_a_fifo_blocks_nothing(tmp_path):
    os.mkfifo(tmp_path / "a.pem")
    assert refused(tmp_path / "a.pem").reason == Reason.CERTIFICATE_PATH
    error = refused(tmp_path)
    assert error.reason == Reason.CERTIFICATE_UNREADABLE
    assert error.why == "is not a regular file"


def test_a_socket_in_a_directory_is_unreadable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.pem")
        assert refused(".").reason == Reason.CERTIFICATE_UNREADABLE


def test_a_directory_in_a_directory_is_unreadable(tmp_path):
    (tmp_path / "x.pem").mkdir()
    assert refused(tmp_path).reason == Reason.CERTIFICATE_UNREADABLE


def test_a_dangling_link_in_a_directory_is_unreadable(tmp_path):
    (tmp_path / "x.pem").symlink_to(tmp_path / "nothing")
    error = refused(tmp_path)
    assert error.reason == Reason.CERTIFICATE_UNREADABLE
    assert error.where == str(tmp_path / "x.pem")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    put(tmp_path / "d", "a.pem")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cert_store.os, "open", refuse)
    error = refused(tmp_path / "d")
    assert error.reason == Reason.CERTIFICATE_UNREADABLE
    assert "Permission denied" in error.why


def test_a_directory_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cert_store.os, "scandir", scandir)
    error = refused(tmp_path)
    assert error.reason == Reason.CERTIFICATE_PATH
    assert error.why == "the directory cannot be read: Permission denied"


def test_an_enormous_directory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cert_store, "MAX_DIRECTORY_ENTRIES", 3)
    put(tmp_path, "a", "b", "c")
    assert len(load(tmp_path)[1]) == 3
    put(tmp_path, "d")
    assert refused(tmp_path).reason == Reason.CERTIFICATE_PATH
    assert MAX_DIRECTORY_ENTRIES > 64


def test_a_long_file_is_refused_and_never_read_whole(tmp_path):
    put(tmp_path, "a.pem", data=PEM.ljust(MAX_CERTIFICATE_FILE, b"\n"))
    assert load(tmp_path)[0].count == 1
    with (tmp_path / "a.pem").open("r+b") as file:
        file.truncate(1 << 40)
    error = refused(tmp_path)
    assert error.reason == Reason.CERTIFICATE_UNREADABLE
    assert error.why == f"is longer than {MAX_CERTIFICATE_FILE} bytes"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no certificate",
        DER,
        PEM.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
        PEM[: len(PEM) // 2],
        KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    ],
    ids=["empty", "text", "der", "trusted", "truncated", "key"],
)
def test_a_file_without_a_certificate_is_refused(tmp_path, data):
    put(tmp_path, "good.pem")
    put(tmp_path, "wrong.pem", data=data)
    error = refused(tmp_path)
    assert error.reason == Reason.CERTIFICATE_UNREADABLE
    assert error.where == str(tmp_path / "wrong.pem")


def test_the_first_failure_is_the_one_that_is_told(tmp_path):
    put(tmp_path, "a.pem", data=b"")
    put(tmp_path, "b.pem", data=pem(certificate_of_size(8001)))
    assert refused(tmp_path).reason == Reason.CERTIFICATE_UNREADABLE
    assert refused(tmp_path / "b.pem", tmp_path / "a.pem").reason == Reason.CERTIFICATE_TOO_LARGE


def test_names_of_files_cannot_drive_the_terminal(tmp_path):
    put(tmp_path, "\x1b[2J\u202e.pem", data=b"")
    assert "\\x1b[2J\\u202e.pem" in str(refused(tmp_path))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(PEM) - 1), st.binary(min_size=1, max_size=4)).map(
        lambda change: PEM[: change[0]] + change[1] + PEM[change[0] + len(change[1]) :]
    )
)
def test_only_refusals_come_out_of_foreign_bytes(tmp_path, data):
    put(tmp_path, "a.pem", data=data)
    try:
        store, _ = load(tmp_path)
    except RefusedToStart as error:
        assert error.reason in (Reason.CERTIFICATE_UNREADABLE, Reason.CERTIFICATE_TOO_LARGE)
        assert str(error).isprintable()
    else:
        assert store.count == 1
        assert store.entries[0].vce_length == 192 + (len(store.entries[0].certificate.der) + 3) // 4 * 4


# The reference's own certificates


@pytest.mark.parametrize(("name", "count"), [("d63", 63), ("d64", 64)])
def test_shared_directories(shared, name, count):
    store, warnings = load(shared / "corpus" / "certs" / name)
    assert warnings == []
    assert store.count == count
    assert names_of(store)[:2] == ["c000.pem", "c001.pem"]


def test_shared_65_are_too_many(shared):
    assert refused(shared / "corpus" / "certs" / "d65").reason == Reason.TOO_MANY_CERTIFICATES


def test_shared_mixed_and_empty(shared):
    certs = shared / "corpus" / "certs"
    store, warnings = load(certs / "dmix", certs / "dempty")
    assert names_of(store) == ["a.pem"]
    assert [(reason, where) for reason, where, _ in warnings] == [
        (Reason.CERTIFICATE_SKIPPED, str(certs / "dmix" / "a.crt")),
        (Reason.CERTIFICATE_SKIPPED, str(certs / "dempty" / ".keep")),
    ]


@pytest.mark.parametrize(
    ("name", "reason"), [("a.crt", Reason.CERTIFICATE_NOT_PEM), ("a.der.pem", Reason.CERTIFICATE_UNREADABLE)]
)
def test_shared_refusals(shared, name, reason):
    assert refused(shared / "corpus" / "certs" / name).reason == reason


def test_shared_files_load_whatever_they_are_good_for(shared):
    certs = shared / "corpus" / "certs"
    files = [path for path in sorted(certs.glob("*.pem")) if path.name != "a.der.pem"]
    store, _ = load(*files)
    assert names_of(store) == [path.name for path in files]
    assert {"expired.pem", "future.pem", "dsa.pem", "k1.pem", "caonly.pem"} <= set(names_of(store))
