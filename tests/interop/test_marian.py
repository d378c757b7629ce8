"""Marian beside transformers: logits, greedy translations, and the round trip, bit by bit."""

import io
import json
import random

import jax
import numpy as np
import pytest

from seqzoo.__main__ import main
from seqzoo.data.tokenizers import TokenizerConfig, train_tokenizer_pair
from seqzoo.interop.hugging_face import HubFolder, export
from seqzoo.models.transformer import TransformerConfig
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import PreparedTranslation

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

# Written out special pieces, a language code, what no vocabulary has, nothing, and a long line.
ODD_LINES = [
    'ban den gas',
    '',
    'ban <unk> den </s> kun',
    '>>fra<< dan don',
    'dan >>fra<< 😀 — ½ ß\u00a0日本',
    '  two  spaces ',
    'lun den ' * 6,
]
SIZES = {
    'shared': {'d_model': 15, 'encoder_attention_heads': 3, 'scale_embedding': True},
    'apart': {
        'd_model': 12,
        'encoder_attention_heads': 2,
        'encoder_layers': 1,
        'share_encoder_decoder_embeddings': False,
        'activation_function': 'relu',
    },
    'untied': {
        'd_model': 8,
        'encoder_attention_heads': 4,
        'encoder_layers': 3,
        'share_encoder_decoder_embeddings': False,
        'tie_word_embeddings': False,
        'activation_function': 'gelu',
    },
}


def sentencepiece_model(seed):
    """A SentencePiece model with the ids that its trainer gives by default."""
    import sentencepiece

    generator = random.Random(seed)
    words = [c + v + d for c in 'bdglk' for v in 'aeiou' for d in 'nst']
    lines = [' '.join(generator.choices(words, k=6)) for _ in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=50,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return model.getvalue(), [found.id_to_piece(i) for i in range(found.vocab_size())]


def write_tokenizer(folder, separate):
    """Both models and the list of pieces, or the list of each; returns their lengths."""
    sides = []
    for seed, name in ((1, 'source.spm'), (2, 'target.spm')):
        model, own = sentencepiece_model(seed)
        (folder / name).write_bytes(model)
        sides.append([piece for piece in own if piece not in ('</s>', '<unk>', '<s>')])
    if not separate:
        sides = [list(dict.fromkeys(sides[0] + sides[1]))]
    settings = {'source_lang': 'en', 'target_lang': 'fr', 'tokenizer_class': 'MarianTokenizer'}
    settings['separate_vocabs'] = separate
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    for number, (name, own) in enumerate(zip(('vocab', 'target_vocab'), sides, strict=False)):
        # The two lists are of different lengths.
        pieces = ['</s>', '<unk>', '<pad>', *own, '>>fra<<'][: len(own) + 4 - number]
        (folder / f'{name}.json').write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
        sides[number] = len(pieces)
    return sides[0], sides[-1]


def write_marian(folder, **changes):
    """A checkpoint of random weights, large enough that outputs differ; returns the torch model."""
    separate = changes.get('tie_word_embeddings') is False
    source_size, size = write_tokenizer(folder, separate)
    assert (source_size != size) == separate
    options = {
        'encoder_layers': 2,
        'decoder_layers': 2,
        'encoder_ffn_dim': 21,
        'decoder_ffn_dim': 21,
        'activation_function': 'swish',
        'max_position_embeddings': 80,
        **changes,
    }
    options['decoder_attention_heads'] = options['encoder_attention_heads']
    ends = {'pad_token_id': 2, 'decoder_start_token_id': 2, 'eos_token_id': 0}
    options |= {'vocab_size': source_size, 'decoder_vocab_size': size, 'forced_eos_token_id': 0}
    config = transformers.MarianConfig(**ends, **options)
    torch.manual_seed(3)
    model = transformers.MarianMTModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'embed_positions' not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.final_logits_bias.copy_(torch.randn(1, size))
    model.save_pretrained(folder)
    return model


def equal_tensors(one, other):
    theirs, ours = one.state_dict(), other.state_dict()
    return theirs.keys() == ours.keys() and all(torch.equal(theirs[k], ours[k]) for k in theirs)


@pytest.mark.parametrize('name', SIZES)
def test_logits_are_theirs_and_a_round_trip_changes_no_bit(tmp_path, name):
    theirs = write_marian(tmp_path, **SIZES[name])
    hub = HubFolder(tmp_path)
    found = hub.imported()
    params = hub.params(found.model)
    rng = np.random.default_rng(0)
    source = rng.integers(3, theirs.config.vocab_size, (2, 9), dtype=np.int32)
    lengths, target = [9, 6], rng.integers(3, found.model.vocab_size, (2, 7), dtype=np.int32)
    real = (np.arange(9)[None] < np.array(lengths)[:, None]).astype(np.int32)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(source).long(),
            attention_mask=torch.tensor(real).long(),
            decoder_input_ids=torch.tensor(target).long(),
        ).logits.numpy()
    model = found.model.build()

    @jax.jit
    def logits(params, source, target, segments):
        def forward(module):
            output = module(source, target, source_segments=segments)
            return module.unembed(output.features)

        return model.apply({'params': params}, method=forward)

    np.testing.assert_allclose(logits(params, source, target, real), expected, atol=1e-4)

    out = tmp_path / 'out'
    export(out, found.model, params, found.prepared, found.decode)
    assert equal_tensors(theirs, transformers.MarianMTModel.from_pretrained(out))
    again = HubFolder(out)
    jax.tree.map(np.testing.assert_array_equal, again.params(again.model()), params)
    assert again.model() == found.model
    tokenizer = transformers.MarianTokenizer.from_pretrained(out)
    pair = again.imported().prepared.tokenizers
    for line in ODD_LINES:
        ids, end = tokenizer(text_target=line)['input_ids'], [pair.target.eos_id]
        assert [*pair.target.encode(line).tolist(), *end] == ids
        if '</s>' not in line:  # where ours stops
            assert pair.target.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_run_translates_as_they_do_and_is_written_back(tmp_path, capsys):
    theirs = write_marian(tmp_path, **SIZES['shared'])
    # The published ones never write their padding; say so here as they do.
    pad = theirs.config.pad_token_id
    theirs.generation_config.bad_words_ids = [[pad]]
    theirs.generation_config.save_pretrained(tmp_path)
    tokenizer = transformers.MarianTokenizer.from_pretrained(tmp_path)
    run, lines = tmp_path / 'run', tmp_path / 'lines'
    lines.write_text('\n'.join(ODD_LINES) + '\n', encoding='utf-8')
    # One shape, so one compilation.
    extra = ['--batch.max-length=64', '--batch.buckets=64', '--batch.evaluation-max-length=64']
    assert main(['import-weights', str(tmp_path), '--run', str(run), *extra]) == 0
    assert 'Transformer' in capsys.readouterr().out
    asked = ['predict', str(run), '--input', str(lines), '--json-lines', '--decode.rows=8']
    assert main([*asked, '--decode.extra-length=4']) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, own in zip(ODD_LINES, found, strict=True):
        ids = tokenizer(line, return_tensors='pt')
        length = ids['input_ids'].shape[1]
        assert tokenizer.convert_ids_to_tokens(ids['input_ids'][0][:-1]) == own['source_tokens']
        if not line:
            continue  # nothing is translated by nothing; they ask the model
        output = theirs.generate(**ids, num_beams=1, max_new_tokens=length + 4)[0]
        kept = [i for i in output[1:].tolist() if i != theirs.config.eos_token_id]
        assert tokenizer.convert_ids_to_tokens(kept) == own['tokens']
        assert tokenizer.decode(output, skip_special_tokens=True) == own['text']

    out = tmp_path / 'out'
    assert main(['export-weights', str(run), '--output', str(out)]) == 0
    back = transformers.MarianMTModel.from_pretrained(out)
    assert equal_tensors(theirs, back)
    assert back.generation_config.bad_words_ids == [[pad]]
    same = transformers.MarianTokenizer.from_pretrained(out)
    assert [same(line)['input_ids'] for line in ODD_LINES] == [
        tokenizer(line)['input_ids'] for line in ODD_LINES
    ]


def test_what_we_trained_ourselves_is_written_as_one_of_theirs(tmp_path):
    lines = ['bala gobi', 'dula gale bo', 'lo da be gi'] * 4
    pair = train_tokenizer_pair(lines, lines, TokenizerConfig(vocab_size=24))
    config = TransformerConfig(
        vocab_size=24,
        num_layers=1,
        embed_dim=8,
        mlp_dim=12,
        num_heads=2,
        norm_epsilon=1e-5,
        sinusoid_layout='concatenated',
        attention_bias=True,
        final_logit_bias=True,
        vocab_multiple=16,
    )
    params = jax.tree.map(
        lambda leaf: np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(config.build().init, jax.random.key(0), *config.example_inputs())['params'],
    )
    from flax.core import meta

    params = meta.unbox(params)
    export(tmp_path, config, params, PreparedTranslation(pair, {}, {}), Decoding(beams=3))
    model = transformers.MarianMTModel.from_pretrained(tmp_path)
    assert model.model.shared.weight.shape == (24, 8)
    assert model.generation_config.num_beams == 3
    tokenizer = transformers.MarianTokenizer.from_pretrained(tmp_path)
    for line in ['bala gobi', 'dula', 'lo  da']:
        assert tokenizer(line)['input_ids'] == [*pair.source.encode(line), pair.source.eos_id]
