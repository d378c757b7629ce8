"""A command in a process of its own: what it leaves, and how it ends when it is ended."""

import io
import sys

import pytest

from seqzoo.analysis import apart
from seqzoo.errors import UserError

PYTHON = sys.executable  # before a test puts another one in its place

ABORT = """
import os, sys
print('half a result', flush=True)
print('trying 4096 tokens', file=sys.stderr)
print('F1130 19:35:00.627285    2668 emitter.cc:1904] Check failed: count.has_value() ',
      file=sys.stderr)
print('*** Check failure stack trace: ***\\n    @     0x7f43d7e9bc54  Log()', file=sys.stderr)
sys.stderr.flush()
os.abort()
"""


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Puts a Python program in the place of `python -m seqzoo`."""

    def put(text):
        (tmp_path / 'program.py').write_text(text)
        script = tmp_path / 'python'
        script.write_text(f'#!/bin/sh\nexec {PYTHON} {tmp_path / "program.py"} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setattr(apart.sys, 'executable', str(script))

    return put


def test_output_status_and_messages_are_those_of_the_command(program):
    program("""
import sys
print(sys.argv[1:])
print('one\\ntwo', file=sys.stderr)
sys.exit(2)
""")
    messages = io.StringIO()
    outcome = apart.run_apart(['compile', 'a b'], show=messages)
    assert outcome == apart.Outcome(2, "['-m', 'seqzoo', 'compile', 'a b']\n", 'two')
    assert messages.getvalue() == 'one\ntwo\n'


def test_an_abort_is_one_sentence_without_its_stack_trace(program):
    program(ABORT)
    messages = io.StringIO()
    with pytest.raises(UserError, match=r'gave up \(Check failed: count.has_value\(\)\)'):
        apart.run_apart(['compile'], show=messages)
    assert messages.getvalue() == 'trying 4096 tokens\n'


def test_a_process_that_is_killed_is_said_to_be(program):
    program('import os, signal; os.kill(os.getpid(), signal.SIGKILL)')
    with pytest.raises(UserError, match='killed, as systems do'):
        apart.run_apart(['compile'])
    program('import os; os.abort()')
    with pytest.raises(UserError, match='SIGABRT'):
        apart.run_apart(['compile'])
