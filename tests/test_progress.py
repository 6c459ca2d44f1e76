from __future__ import annotations

import io

from fastmodel.progress import LiveProgress, PlainProgress, progress_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use(progress) -> None:
    with progress:
        progress.stage("timing", 2)
        progress.advance()
        progress.say("eager [1/2]")
        progress.advance()


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = progress_for(stream)
    assert isinstance(progress, PlainProgress)
    use(progress)
    assert stream.getvalue() == "timing ...\neager [1/2]\n"


def test_a_live_bar_on_a_terminal_keeps_the_results():
    stream = Terminal()
    progress = progress_for(stream)
    assert isinstance(progress, LiveProgress)
    use(progress)
    assert "eager [1/2]" in stream.getvalue()
    assert "timing" in stream.getvalue()
