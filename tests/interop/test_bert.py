"""BERT beside transformers: logits of both heads, filled masks, and the round trip."""

import json

import jax
import numpy as np
import pytest

from seqzoo.__main__ import main
from seqzoo.interop.hugging_face import HubFolder, export
from seqzoo.layers.inputs import TypedTokens

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

PIECES = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdeghiklmnorstuw!.,é日']
PIECES += [f'##{c}' for c in 'abcdeghiklmnorstuw'] + ['make', 'chicken', 'it', 'taste', '##s']
RECORDS = ["Let's make [MASK] chicken! [SEP] It [MASK] great", 'an [MASK] 日本 😀 Café']
SIZES = {
    'both': ('BertForPreTraining', {'hidden_size': 15, 'num_attention_heads': 3}),
    'masked': (
        'BertForMaskedLM',
        {
            'hidden_size': 14,
            'num_attention_heads': 2,
            'hidden_act': 'relu',
            'type_vocab_size': 3,
            'layer_norm_eps': 1e-5,
        },
    ),
}


def write_bert(folder, name):
    """A checkpoint of random weights; two rows of its table have no piece."""
    pieces = list(dict.fromkeys(PIECES))
    (folder / 'vocab.txt').write_text('\n'.join(pieces) + '\n', encoding='utf-8')
    (folder / 'tokenizer_config.json').write_text('{"tokenizer_class": "BertTokenizer"}')
    kind, options = SIZES[name]
    config = transformers.BertConfig(
        vocab_size=len(pieces) + 2,
        num_hidden_layers=2,
        intermediate_size=21,
        max_position_embeddings=33,
        **options,
    )
    torch.manual_seed(2)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def equal_tensors(one, other):
    theirs, ours = one.state_dict(), other.state_dict()
    return theirs.keys() == ours.keys() and all(torch.equal(theirs[k], ours[k]) for k in theirs)


@pytest.mark.parametrize('name', SIZES)
def test_logits_are_theirs_and_a_round_trip_changes_no_bit(tmp_path, name):
    theirs = write_bert(tmp_path, name)
    hub = HubFolder(tmp_path)
    found = hub.imported()
    params = hub.params(found.model)
    rng = np.random.default_rng(0)
    size = found.model.encoder.vocab_size
    tokens = rng.integers(0, size, (2, 12), dtype=np.int32)
    types = np.sort(rng.integers(0, 2, (2, 12), dtype=np.int32))
    real = (np.arange(12) < np.array([[12], [8]])).astype(np.int32)
    with torch.no_grad():
        expected = theirs(
            torch.tensor(tokens).long(),
            attention_mask=torch.tensor(real).long(),
            token_type_ids=torch.tensor(types).long(),
        )
    model = found.model.build()

    @jax.jit
    def answer(params, tokens, types, real):
        def forward(module):
            output = module(TypedTokens(tokens, types), segments=real)
            return module.unembed(output.features), output.next_sentence

        return model.apply({'params': params}, method=forward)

    logits, following = answer(params, tokens, types, real)
    both = name == 'both'
    masked = expected.prediction_logits if both else expected.logits
    where = real.astype(bool)
    np.testing.assert_allclose(np.asarray(logits)[where], masked.numpy()[where], atol=1e-4)
    if both:
        np.testing.assert_allclose(following, expected.seq_relationship_logits, atol=1e-4)

    out = tmp_path / 'out'
    export(out, found.model, params, found.prepared, found.decode)
    assert equal_tensors(theirs, type(theirs).from_pretrained(out))
    again = HubFolder(out)
    assert again.model() == found.model
    jax.tree.map(np.testing.assert_array_equal, again.params(again.model()), params)


@pytest.mark.slow
def test_a_run_fills_masks_as_they_do_and_is_written_back(tmp_path, capsys):
    theirs = write_bert(tmp_path, 'both')
    run, lines, out = tmp_path / 'run', tmp_path / 'lines', tmp_path / 'out'
    lines.write_text('\n'.join(RECORDS) + '\n', encoding='utf-8')
    assert main(['import-weights', str(tmp_path), '--run', str(run)]) == 0
    capsys.readouterr()
    assert main(['predict', str(run), '--input', str(lines), '--json-lines']) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    for record, own in zip(RECORDS, found, strict=True):
        ids = tokenizer(*(part.strip() for part in record.split('[SEP]')), return_tensors='pt')
        assert tokenizer.convert_ids_to_tokens(ids['input_ids'][0]) == own['source_tokens']
        with torch.no_grad():
            logits = theirs(**ids).prediction_logits[0]
        for place, mask in zip(
            (ids['input_ids'][0] == tokenizer.mask_token_id).nonzero(), own['masks'], strict=True
        ):
            shares = logits[place[0]].softmax(-1)
            for candidate in mask:
                number = tokenizer.convert_tokens_to_ids(candidate['token'])
                share = shares[number].item()
                assert candidate['probability'] == pytest.approx(share, abs=1e-4)
    assert main(['export-weights', str(run), '--output', str(out)]) == 0
    assert equal_tensors(theirs, transformers.BertForPreTraining.from_pretrained(out))
    back = transformers.BertTokenizer.from_pretrained(out)
    assert [back(r)['input_ids'] for r in RECORDS] == [tokenizer(r)['input_ids'] for r in RECORDS]


def test_names_and_tokenizer_files_of_all_ages_are_read(tmp_path):
    """Old files call the scale of a norm gamma; new ones keep pieces in `tokenizer.json` alone."""
    import safetensors.numpy

    write_bert(tmp_path, 'both')
    first = HubFolder(tmp_path)
    params, entries = first.params(first.model()), first.imported().prepared.tokenizer.entries
    file = tmp_path / 'model.safetensors'
    old = {
        name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
            'LayerNorm.bias', 'LayerNorm.beta'
        ): array
        for name, array in safetensors.numpy.load_file(file).items()
    }
    # The published file says less than it holds.
    content = json.loads((tmp_path / 'config.json').read_text())
    content['architectures'] = ['BertForMaskedLM']
    (tmp_path / 'config.json').write_text(json.dumps(content))
    old['bert.embeddings.position_ids'] = np.arange(33)[None]
    old['cls.predictions.decoder.weight'] = old['bert.embeddings.word_embeddings.weight']
    old['cls.predictions.decoder.bias'] = old['cls.predictions.bias']
    safetensors.numpy.save_file(old, file)
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / 'vocab.txt').unlink()
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / 'tokenizer.json').exists()
    again = HubFolder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params(again.model()), params)
    assert again.imported().prepared.tokenizer.entries == entries


def test_a_pooler_that_nothing_stands_on_is_left_out(tmp_path):
    import safetensors.numpy

    write_bert(tmp_path, next(name for name, options in SIZES.items() if 'Masked' in str(options)))
    first = HubFolder(tmp_path)
    params, file = first.params(first.model()), tmp_path / 'model.safetensors'
    width = first.model().encoder.embed_dim
    more = {'weight': np.ones((width, width), np.float32), 'bias': np.ones(width, np.float32)}
    tensors = safetensors.numpy.load_file(file)
    tensors |= {f'bert.pooler.dense.{name}': array for name, array in more.items()}
    safetensors.numpy.save_file(tensors, file)
    again = HubFolder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params(again.model()), params)
