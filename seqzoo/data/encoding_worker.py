"""The program of one worker of `parallel_encoding`.

Reads a pickled encoder from standard input, then chunks of lines, answers each with its ids on
standard output, and ends where the input ends.
"""

import pickle
import sys

from seqzoo.data.parallel_encoding import encode_chunk, read_frame, write_frame


def main() -> None:
    """Answers until there is nothing more to read."""
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever a library prints must not come between the answers
    first = read_frame(asked)
    if first is None:
        return
    encoder = pickle.loads(first)
    if hasattr(encoder, 'use_one_thread'):
        encoder.use_one_thread()  # there is a worker for every core
    while (frame := read_frame(asked)) is not None:
        try:
            found = encode_chunk(pickle.loads(frame), encoder)
            answer = pickle.dumps((found.ids.tobytes(), found.lengths.tobytes()))
        except Exception as error:
            answer = pickle.dumps(error)
        write_frame(answers, answer)


if __name__ == '__main__':
    main()
