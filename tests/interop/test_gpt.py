"""GPT-1, GPT-2 and NeoX beside transformers: logits, greedy continuations, and the round trip."""

import json

import jax
import numpy as np
import pytest

from seqzoo.__main__ import main
from seqzoo.interop.hugging_face import HubFolder, export

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

TEXT = [
    'to be or not to be, that is the question',
    'whether it is nobler in the mind to suffer',
    "the slings and arrows of outrageous fortune; it's 42",
] * 3
# Few tokens each: one bucket, so one compilation.
PROMPTS = ['to be or', '', 'it  ½', '日 the', '<|endoftext|>to', '😀']

SIZES = {
    'gpt2': {'n_embd': 15, 'n_head': 3, 'n_layer': 3, 'n_inner': 22},
    'gpt2-untied': {
        'n_embd': 8,
        'n_head': 1,
        'n_layer': 1,
        'activation_function': 'relu',
        'tie_word_embeddings': False,
    },
    'openai-gpt': {'n_embd': 14, 'n_head': 2, 'n_layer': 2},
    'openai-gpt-silu': {'n_embd': 9, 'n_head': 3, 'n_layer': 1, 'afn': 'swish'},
    'gpt_neox': {'hidden_size': 24, 'num_attention_heads': 3, 'num_hidden_layers': 2},
    # 12 * 0.25 and 10 * 0.3 are odd numbers of columns, 4 * 0.1 is none.
    'gpt_neox-odd': {'hidden_size': 36, 'num_attention_heads': 3, 'num_hidden_layers': 1},
    'gpt_neox-odder': {
        'hidden_size': 20,
        'num_attention_heads': 2,
        'num_hidden_layers': 1,
        'rotary_pct': 0.3,
    },
    'gpt_neox-still': {
        'hidden_size': 8,
        'num_attention_heads': 2,
        'num_hidden_layers': 1,
        'rotary_pct': 0.1,
    },
    'gpt_neox-serial': {
        'hidden_size': 24,
        'num_attention_heads': 2,
        'num_hidden_layers': 1,
        'use_parallel_residual': False,
        'rotary_pct': 1.0,
        'attention_bias': False,
        'tie_word_embeddings': True,
        'hidden_act': 'gelu_new',
    },
}


def write_tokenizer(folder, kind, size=300):
    """`vocab.json` and `merges.txt` learnt from the text, as the families store them."""
    import tokenizers

    if kind == 'openai-gpt':
        learner = tokenizers.CharBPETokenizer(lowercase=True, suffix='</w>')
        learner.train_from_iterator(TEXT, vocab_size=60, special_tokens=['<unk>'])
    else:
        learner = tokenizers.ByteLevelBPETokenizer()
        learner.train_from_iterator(TEXT, vocab_size=size, special_tokens=['<|endoftext|>'])
    learner.save_model(str(folder))
    return learner.get_vocab_size()


def write_gpt(folder, name):
    """A checkpoint of random weights, large enough that continuations differ."""
    kind = 'openai-gpt' if name.startswith('openai') else name.split('-')[0]
    rows = write_tokenizer(folder, kind) + 3  # some rows that no token has
    config, model = {
        'gpt2': (transformers.GPT2Config, transformers.GPT2LMHeadModel),
        'openai-gpt': (transformers.OpenAIGPTConfig, transformers.OpenAIGPTLMHeadModel),
        'gpt_neox': (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM),
    }[kind]
    options = {'vocab_size': rows, **SIZES[name]}
    if kind == 'gpt_neox':
        options |= {'intermediate_size': 35, 'max_position_embeddings': 64, 'eos_token_id': 0}
    else:
        options |= {'n_positions': 64}
    if kind == 'gpt2':
        options |= {'eos_token_id': 0, 'bos_token_id': 0}
    torch.manual_seed(1)
    made = model(config(**options)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    return made


def equal_tensors(one, other):
    theirs, ours = one.state_dict(), other.state_dict()
    return theirs.keys() == ours.keys() and all(torch.equal(theirs[k], ours[k]) for k in theirs)


@pytest.mark.parametrize('name', SIZES)
def test_logits_are_theirs_and_a_round_trip_changes_no_bit(tmp_path, name):
    theirs = write_gpt(tmp_path, name)
    hub = HubFolder(tmp_path)
    found = hub.imported()
    params = hub.params(found.model)
    tokens = np.random.default_rng(0).integers(0, found.model.vocab_size, (2, 11), dtype=np.int32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens).long()).logits.numpy()
    model = found.model.build()

    @jax.jit
    def logits(params, tokens):
        def forward(module):
            return module.unembed(module(tokens).features)

        return model.apply({'params': params}, method=forward)

    np.testing.assert_allclose(logits(params, tokens), expected, atol=1e-4)

    out = tmp_path / 'out'
    export(out, found.model, params, found.prepared, found.decode)
    assert equal_tensors(theirs, type(theirs).from_pretrained(out))
    again = HubFolder(out)
    assert again.model() == found.model
    jax.tree.map(np.testing.assert_array_equal, again.params(again.model()), params)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    'name',
    ['gpt2', pytest.param('openai-gpt', marks=SLOW), pytest.param('gpt_neox', marks=SLOW)],
)
def test_a_run_continues_as_they_do_and_is_written_back(tmp_path, capsys, name):
    theirs = write_gpt(tmp_path, name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    run, lines, out = tmp_path / 'run', tmp_path / 'lines', tmp_path / 'out'
    lines.write_text('\n'.join(PROMPTS) + '\n', encoding='utf-8')
    assert main(['import-weights', str(tmp_path), '--run', str(run)]) == 0
    assert f'{theirs.num_parameters():,} parameters' in capsys.readouterr().out
    asked = ['predict', str(run), '--input', str(lines), '--json-lines', '--decode.rows=8']
    assert main([*asked, '--decode.extra-length=9']) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for prompt, own in zip(PROMPTS, found, strict=True):
        ids = tokenizer(prompt)['input_ids']
        assert len(own['source_tokens']) == len(ids)
        begin = ids or [0]  # an empty prompt begins behind the end of another text
        prompt_ids = torch.tensor([begin])
        output = theirs.generate(
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            max_new_tokens=9,
            do_sample=False,
            pad_token_id=0,
        )[0]
        new = [i for i in output[len(begin) :].tolist() if i != theirs.config.eos_token_id]
        assert [_text(tokenizer, i) for i in new] == own['tokens']
    assert main(['export-weights', str(run), '--output', str(out)]) == 0
    assert equal_tensors(theirs, type(theirs).from_pretrained(out))
    back = transformers.AutoTokenizer.from_pretrained(out)
    assert type(back) is type(tokenizer)
    assert [back(p)['input_ids'] for p in PROMPTS] == [tokenizer(p)['input_ids'] for p in PROMPTS]


def _text(tokenizer, number):
    """How seqzoo shows a token: its text, or its name where it is a part of a character."""
    text = tokenizer.decode([number]) if number < len(tokenizer) else ''
    name = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else None
    return text if text and '�' not in text else name or f'<{number}>'
