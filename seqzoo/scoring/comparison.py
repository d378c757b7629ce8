"""Comparing scores: only like with like, and two systems by paired bootstrap (Koehn 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqzoo.errors import UserError
from seqzoo.scoring.score import Score, check_corpus
from seqzoo.scoring.scorer import Scorer


def difference(score: Score, other: Score) -> float:
    """How much higher `score` is.

    Raises:
        UserError: the two were not made alike, so that no difference means anything.
    """
    if score.name != other.name or score.signature != other.signature:
        raise UserError(
            f'{score.name} ({score.signature}) and {other.name} ({other.signature}) are different '
            'scores; score both outputs with one scorer'
        )
    return score.value - other.value


@dataclass(frozen=True)
class PairedComparison:
    """Two systems under one scorer.

    Attributes:
        name: of the scorer.
        system, baseline: their scores.
        p_value: sacreBLEU's, how often chance alone would give a difference as large; below 0.05 is
            called significant. It forgets the sign of a drawn difference before it centres them, so
            that a two-sided test gives about twice as much, or more where the difference is small.
        system_interval, baseline_interval: half the width of a 95 % interval around each.
        samples: how often the corpus was drawn anew.
        signature: of the scorer, and of the draw.
    """

    name: str
    system: float
    baseline: float
    p_value: float
    system_interval: float
    baseline_interval: float
    samples: int
    signature: str

    @property
    def difference(self) -> float:
        """How much higher the system is."""
        return self.system - self.baseline


def paired_bootstrap(
    scorer: Scorer,
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[str],
    *,
    samples: int = 1000,
) -> PairedComparison:
    """Draws the corpus anew `samples` times, for both systems the same lines, by sacreBLEU (seed
    12345 unless SACREBLEU_SEED says otherwise).

    Args:
        scorer: what counts.
        system: outputs, one line for each segment.
        baseline: outputs of the other system for the same segments.
        references: as many lines.
        samples: how often.

    Raises:
        UserError: different numbers of lines, or none.
    """
    check_corpus(system, references)
    check_corpus(baseline, references)
    if samples < 1:
        raise UserError(f'{samples} samples compare nothing; take 1,000')
    from sacrebleu.significance import PairedTest, Result

    own, wanted = scorer.prepared(system, references)
    other, _ = scorer.prepared(baseline, references[:0])
    metric = scorer.make_metric()
    test = PairedTest(
        [('baseline', other), ('system', own)],
        {scorer.name: metric},
        [wanted],
        test_type='bs',
        n_samples=samples,
    )
    signatures, found = test()
    ((key, signature),) = signatures.items()
    first, second = found[key]
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert first.ci is not None
    assert second.ci is not None
    assert second.p_value is not None
    return PairedComparison(
        name=scorer.name,
        system=float(second.score),
        baseline=float(first.score),
        # sacreBLEU counts draws that are *above* the difference, and so calls none significant.
        p_value=1.0 if first.score == second.score else float(second.p_value),
        system_interval=float(second.ci),
        baseline_interval=float(first.ci),
        samples=samples,
        signature=scorer.signature_of(signature),
    )
