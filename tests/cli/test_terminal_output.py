"""Who looks decides about the form: colour and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re

import pytest

ESCAPE = "\x1b["


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class TestTerminal:
    def test_verdict_in_colour_table_of_components_and_findings_with_hint(self, terminal, demo, bad):
        with terminal("verify", *demo.trusted, bad) as screen:
            result = screen.finish()
        assert result.code == 1
        assert ESCAPE in result.out
        lines = [line.rstrip() for line in plain(result.out).splitlines()]
        assert lines[0].startswith("✗ ")
        columns = ["address", "bytes", "part", "state", "certificate", "sha256"]
        header = next(line for line in lines if line.split() == columns)
        rows = lines[lines.index(header) + 1 :]
        assert re.fullmatch(r"\s+0xa000 +512 +loader +verified +demo-cert.pem +[0-9a-f]{16}", rows[2])
        assert re.fullmatch(r"\s+0x10000 +1536 +kernel +signed, NOT VERIFIED +[0-9a-f]{16}", rows[3])
        finding = "\n".join(lines).partition("✗ signature-not-verified  ")[2]
        assert finding.startswith("the signature of the component at 0x10000 does not verify")
        assert "→ name the certificate of its signer" in finding

    def test_yes(self, terminal, demo):
        with terminal("boot", "--engine", "none", *demo.secure, demo.disk) as screen:
            result = screen.finish()
        assert result.code == 0
        assert plain(result.out).startswith("✓ ")
        assert "component-verified" not in result.out

    def test_verbose(self, terminal, demo):
        with terminal("boot", "--engine", "none", "-v", *demo.secure, demo.disk) as screen:
            result = screen.finish()
        assert result.code == 0
        assert "✓ component-verified" in plain(result.out)

    def test_undecided(self, terminal, tmp_path):
        with terminal("verify", tmp_path / "missing") as screen:
            result = screen.finish()
        assert result.code == 2
        assert plain(result.out).startswith("? ")

    def test_inspect_is_a_tree(self, terminal, demo):
        with terminal("inspect", demo.disk) as screen:
            result = screen.finish()
        assert result.code == 0
        assert ESCAPE in result.out
        assert "├── " in result.out

    def test_certs_is_a_table(self, terminal, demo):
        with terminal("certs", "--at", demo.trusted[-1], demo.certificate) as screen:
            result = screen.finish()
        assert result.code == 0
        assert ESCAPE in result.out
        assert plain(result.out).split()[:4] == ["no.", "name", "subject", "key"]

    @pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
    def test_who_wants_no_colour_gets_what_a_pipe_gets(self, terminal, sipl_process, demo, env):
        with terminal("verify", *demo.trusted, demo.disk, env=env) as screen:
            result = screen.finish()
        assert ESCAPE not in result.out
        assert result.out == sipl_process("verify", *demo.trusted, demo.disk).out

    @pytest.mark.parametrize("words", [("--json",), ("-q",)], ids=str)
    def test_json_and_quiet_are_the_same_everywhere(self, terminal, sipl_process, demo, words):
        with terminal("verify", *words, *demo.trusted, demo.disk) as screen:
            result = screen.finish()
        assert result.out == sipl_process("verify", *words, *demo.trusted, demo.disk).out


class TestPipe:
    @pytest.mark.parametrize(
        "words",
        [
            ("verify", "-v"),
            ("boot", "--engine", "none"),
            ("inspect", "-v"),
            ("verify", "--json"),
            ("inspect", "--json"),
        ],
        ids=str,
    )
    def test_no_escapes(self, sipl_process, demo, words):
        options = demo.trusted if words[0] != "inspect" else ()
        result = sipl_process(*words, *options, demo.disk, env={"TERM": "xterm-256color", "FORCE_COLOR": "1"})
        assert result.code == 0
        assert ESCAPE not in result.out
        assert result.out.isprintable() is False  # line ends
        assert all(line.isprintable() for line in result.lines)

    @pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
    def test_any_encoding_will_do(self, sipl_process, demo, encoding):
        env = {"PYTHONIOENCODING": encoding}
        assert sipl_process("boot", "--help", env=env).code == 0
        assert sipl_process("--help", env=env).code == 0
        assert sipl_process("verify", *demo.trusted, demo.disk, env=env).code == 0
