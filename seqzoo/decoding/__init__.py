"""Greedy, sampling and beam search: they take a step function and know no model.

`base` says what a step is and how a model's step becomes one; `beam.beam_search`,
`greedy.greedy_search` and `sampling.sample` drive it and return a `Decoded`.
"""

from seqzoo.decoding.base import (
    BeamStep,
    Decoded,
    Step,
    length_normalizer,
    map_over_beams,
    one_beam,
    replicate_for_beams,
)
from seqzoo.decoding.beam import beam_search
from seqzoo.decoding.greedy import greedy_search
from seqzoo.decoding.sampling import sample

__all__ = [
    'BeamStep',
    'Decoded',
    'Step',
    'beam_search',
    'greedy_search',
    'length_normalizer',
    'map_over_beams',
    'one_beam',
    'replicate_for_beams',
    'sample',
]
