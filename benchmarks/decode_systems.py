"""The systems that `decode.py` compares: each a function that is called again and again.

All have the shapes of `Shapes` and random weights, and EOS is made impossible (by a bias of its
logit, or an id outside the vocabulary), so that every system decodes the same number of tokens:
`target_length` steps for every sentence.
"""

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Decodes all sentences once, and returns how many tokens came out.
Run = Callable[[], int]

EOS, PAD, BOS, FIRST_WORD = 0, 1, 2, 3
NEVER = -1e4  # a logit that no search will choose


@dataclass(frozen=True)
class Shapes:
    """What is decoded, by a model of which size."""

    sentences: int = 64
    source_length: int = 32
    target_length: int = 32
    vocab_size: int = 8192
    num_layers: int = 6
    embed_dim: int = 512
    mlp_dim: int = 2048
    num_heads: int = 8

    def source(self) -> np.ndarray:
        """`[sentences, source_length]` int32 ids of words."""
        shape = (self.sentences, self.source_length)
        return np.random.default_rng(0).integers(FIRST_WORD, self.vocab_size, shape, np.int32)


def seqzoo(shapes: Shapes, beams: int, cores: int, checkout: str | None) -> Run:
    """Ours, as `seqzoo predict` runs it."""
    import jax
    import jax.numpy as jnp
    from flax.core import meta

    from seqzoo.models.transformer import TransformerConfig
    from seqzoo.tasks.base import Decoding
    from seqzoo.tasks.sequence_search import SpecialTokens, seq2seq_search

    model = TransformerConfig(
        vocab_size=shapes.vocab_size,
        num_layers=shapes.num_layers,
        embed_dim=shapes.embed_dim,
        mlp_dim=shapes.mlp_dim,
        num_heads=shapes.num_heads,
        final_logit_bias=True,
    ).build()
    source = jnp.asarray(shapes.source())
    variables = meta.unbox(jax.jit(model.init)(jax.random.key(0), source, source))
    bias = variables['params']['logit_bias']
    variables['params']['logit_bias'] = bias.at[EOS].set(NEVER)
    decoding = Decoding(
        method='beam' if beams > 1 else 'greedy',
        beams=beams,
        extra_length=shapes.target_length - shapes.source_length,
    )
    special = SpecialTokens(BOS, EOS, PAD, shapes.vocab_size)
    search = jax.jit(seq2seq_search(model, decoding, special, shapes.source_length))
    rows = jnp.arange(shapes.sentences)
    batch = {'source': source, 'source_segments': jnp.ones_like(source), 'rows': rows}

    def run() -> int:
        decoded = search(variables, batch)
        return int(np.sum(np.asarray(decoded.lengths)[:, 0]))

    return run


def flax_wmt(shapes: Shapes, beams: int, cores: int, checkout: str | None) -> Run:
    """The wmt example in a checkout of flax: its model and its beam search, beam 1 for greedy."""
    if checkout is None:
        raise ModuleNotFoundError('needs --flax-checkout')
    import jax
    import jax.numpy as jnp

    models, decode = (
        _load(Path(checkout, 'examples/wmt', f'{x}.py')) for x in ('models', 'decode')
    )
    length = shapes.target_length + 1  # the first place is the start token's
    config = models.TransformerConfig(
        vocab_size=shapes.vocab_size,
        output_vocab_size=shapes.vocab_size,
        share_embeddings=True,
        logits_via_embedding=True,
        emb_dim=shapes.embed_dim,
        num_heads=shapes.num_heads,
        num_layers=shapes.num_layers,
        qkv_dim=shapes.embed_dim,
        mlp_dim=shapes.mlp_dim,
        max_len=max(length, shapes.source_length),
        deterministic=True,
        decode=True,
    )
    model = models.Transformer(config)
    source = jnp.asarray(shapes.source())
    target = jnp.ones((shapes.sentences, length), jnp.int32)
    initial = jax.jit(model.init)(jax.random.key(0), source, target)
    params, cache = initial['params'], initial['cache']

    @jax.jit
    def search(params: Any, cache: Any, source: Any) -> Any:
        memory = model.apply({'params': params}, source, method=models.Transformer.encode)
        memory = decode.flat_batch_beam_expand(memory, beams)
        sources = decode.flat_batch_beam_expand(source, beams)

        def step(tokens: Any, cache: Any) -> tuple[Any, Any]:
            variables = {'params': params, 'cache': cache}
            logits, changed = model.apply(
                variables,
                memory,
                sources,
                tokens,
                mutable=['cache'],
                method=models.Transformer.decode,
            )
            return logits[:, 0], changed['cache']

        return decode.beam_search(
            source, cache, step, beam_size=beams, alpha=0.6, eos_id=-1, max_decode_len=length
        )

    def run() -> int:
        tokens, _ = search(params, cache, source)
        return int(np.asarray(tokens).shape[0] * shapes.target_length)

    return run


def hugging_face(shapes: Shapes, beams: int, cores: int, checkout: str | None) -> Run:
    """`generate` of a Marian model in torch."""
    import torch

    torch.set_num_threads(cores)
    model = _marian(shapes, shapes.vocab_size)
    source = torch.from_numpy(shapes.source().astype(np.int64))

    def run() -> int:
        with torch.inference_mode():
            tokens = model.generate(
                input_ids=source,
                attention_mask=torch.ones_like(source),
                num_beams=beams,
                do_sample=False,
                length_penalty=0.6,
                max_new_tokens=shapes.target_length,
            )
        return int(tokens[:, 1:].numel())

    return run


def ctranslate2(shapes: Shapes, beams: int, cores: int, checkout: str | None) -> Run:
    """CTranslate2 in float32, the weights converted from a random Marian model."""
    import subprocess

    import ctranslate2 as ct2

    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, whose memory does not count.
        here = Path(__file__)
        code = 'import decode_systems as s, sys; s.convert(eval("s." + sys.argv[1]), sys.argv[2])'
        command = [sys.executable, '-c', code, repr(shapes), folder]
        subprocess.run(command, cwd=here.parent, check=True, stdout=sys.stderr)
        translator = ct2.Translator(
            str(Path(folder, 'converted')),
            device='cpu',
            compute_type='float32',
            inter_threads=1,
            intra_threads=cores,
        )
    source = [[_word(token) for token in row] for row in shapes.source()]

    def run() -> int:
        results = translator.translate_batch(
            source,
            max_batch_size=shapes.sentences,
            beam_size=beams,
            length_penalty=0.6,
            max_decoding_length=shapes.target_length,
        )
        return sum(len(result.hypotheses[0]) for result in results)

    return run


SYSTEMS: dict[str, Callable[[Shapes, int, int, str | None], Run]] = {
    'seqzoo': seqzoo,
    'flax_wmt': flax_wmt,
    'hugging_face': hugging_face,
    'ctranslate2': ctranslate2,
}


def convert(shapes: Shapes, folder: str) -> None:
    """Writes a random Marian model into `folder`, as CTranslate2 reads it."""
    from ctranslate2.converters import TransformersConverter

    class Words:
        """In place of a tokenizer: word `i` is called `w<i>`."""

        eos_token, unk_token = _word(EOS), _word(BOS)

        def get_vocab(self) -> dict[str, int]:
            return {_word(i): i for i in range(shapes.vocab_size)} | {'<pad>': shapes.vocab_size}

    class Converter(TransformersConverter):
        def load_tokenizer(self, *args: Any, **options: Any) -> Words:
            return Words()

    # The converter takes the last row for the padding, and drops it.
    _marian(shapes, shapes.vocab_size + 1).save_pretrained(folder)
    Converter(folder).convert(str(Path(folder, 'converted')))


def _marian(shapes: Shapes, vocab_size: int) -> Any:
    """A Marian model with random weights; the last id of its vocabulary is the padding."""
    import torch
    from transformers import MarianConfig, MarianMTModel, logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    pad = vocab_size - 1
    config = MarianConfig(
        vocab_size=vocab_size,
        decoder_vocab_size=vocab_size,
        d_model=shapes.embed_dim,
        encoder_layers=shapes.num_layers,
        decoder_layers=shapes.num_layers,
        encoder_attention_heads=shapes.num_heads,
        decoder_attention_heads=shapes.num_heads,
        encoder_ffn_dim=shapes.mlp_dim,
        decoder_ffn_dim=shapes.mlp_dim,
        activation_function='relu',
        scale_embedding=True,
        max_position_embeddings=2 * max(shapes.source_length, shapes.target_length),
        eos_token_id=EOS,
        pad_token_id=pad,
        bos_token_id=BOS,
        decoder_start_token_id=pad,
        forced_eos_token_id=None,
    )
    model = MarianMTModel(config).eval()
    model.final_logits_bias[:, [EOS, pad]] = NEVER
    model.generation_config.forced_eos_token_id = None
    return model


def _word(token: int) -> str:
    return {EOS: '</s>', BOS: '<unk>'}.get(int(token), f'w{token}')


def _load(path: Path) -> Any:
    """The module in the file `path`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise ModuleNotFoundError(f'the checkout of flax has no examples/wmt/{path.name}')
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
