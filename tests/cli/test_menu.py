"""The boot menu: asked on a terminal, answered by --choose, undecided without either."""

from __future__ import annotations

import signal

PROMPT = "boot which program? [0] "


def menu(demo, *words):
    return ("boot", "--engine", "none", *demo.secure, "--loadparm", "PROMPT", *words, demo.disk)


def test_without_a_terminal_there_is_no_verdict(sipl_process, demo):
    result = sipl_process(*menu(demo))
    assert (result.code, result.err) == (2, "")
    assert result.lines[0] == f"{demo.disk}: undecided in secure mode: menu-choice-needed"
    assert "the disk asks which program to boot: 0, 1" in result.lines[1]
    (report,) = sipl_process(*menu(demo, "--json")).json
    assert (report["outcome"], report["reason"], report["would_boot"]) == ("undecided", "menu-choice-needed", None)


def test_choose_answers_without_a_terminal(sipl_process, demo):
    (report,) = sipl_process(*menu(demo, "--choose", "1", "--json")).json
    assert (report["outcome"], report["devices"][0]["program"]) == ("hands-over", 1)


def test_a_person_is_asked_until_the_answer_is_a_program(terminal, demo):
    with terminal(*menu(demo, "-q")) as screen:
        screen.wait_for(PROMPT)
        assert "  [0] default\r\n  [1]\r\n" in screen.output
        screen.type("7\n")
        screen.wait_for("there is no such program\r\n" + PROMPT)
        screen.type("one\n")
        screen.wait_for("one\r\nthere is no such program\r\n" + PROMPT)
        screen.type("1\n")
        result = screen.finish()
    assert result.code == 0
    assert result.lines[-1].startswith(f"{demo.disk}: hands over")


def test_an_empty_line_takes_the_default(terminal, demo):
    with terminal(*menu(demo, "--json")) as screen:
        screen.wait_for(PROMPT)
        screen.type("\n")
        result = screen.finish()
    assert result.code == 0
    assert '"program": 0}' in result.lines[-1]


def test_the_end_of_the_input_takes_the_default(terminal, demo):
    with terminal(*menu(demo, "-q")) as screen:
        screen.wait_for(PROMPT)
        screen.type("\x04")
        assert screen.finish().code == 0


def test_the_time_out_takes_the_default(terminal, demo):
    words = (
        "boot",
        "--engine",
        "none",
        *demo.secure,
        "--boot-menu",
        "on",
        "--boot-menu-timeout",
        "20",
        "-q",
        demo.disk,
    )
    with terminal(*words) as screen:
        result = screen.finish()
    assert PROMPT in result.out
    assert result.code == 0


def test_choose_wins_over_the_terminal(terminal, demo):
    with terminal(*menu(demo, "--choose", "1", "-q")) as screen:
        result = screen.finish()
    assert result.code == 0
    assert PROMPT not in result.out


def test_verify_asks_too_and_both_passes_ask_for_themselves(sipl_process, demo):
    words = ("verify", *demo.trusted, "--loadparm", "PROMPT", demo.disk)
    assert sipl_process(*words).code == 2
    assert sipl_process(*words, "--choose", "1").code == 0


def test_interrupted_at_the_prompt_is_one_line_and_no_verdict(terminal, demo):
    with terminal(*menu(demo)) as screen:
        screen.wait_for(PROMPT)
        screen.process.send_signal(signal.SIGINT)
        result = screen.finish()
    assert result.code == 2
    assert result.out.partition(PROMPT)[2].strip() == "sipl: interrupted: there is no verdict"
