"""Small random language models with tokenizers, as save_pretrained writes them."""

import tokenizers
import torch
import transformers

N_LAYERS = 3
WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran"]


def byte_tokenizer():
    """One token per byte and no merges; like GPT-2's, it adds no special tokens."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>"
    )


def word_tokenizer():
    """One token per word; like Llama's, it begins every text with a special token."""
    words = ["<unk>", "<s>", "</s>", *WORDS]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


def tiny_gpt2():
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=128, n_embd=16, n_layer=N_LAYERS, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def tiny_llama():
    config = transformers.LlamaConfig(
        vocab_size=3 + len(WORDS),
        max_position_embeddings=128,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return transformers.LlamaForCausalLM(config)


# Each: the model, its tokenizer, and where its last normalisation is.
DECODERS = {
    "gpt2": (tiny_gpt2, byte_tokenizer, "transformer.ln_f"),
    "llama": (tiny_llama, word_tokenizer, "model.norm"),
}


def save(name, folder):
    """Write a decoder and its tokenizer, the same ones every time."""
    build_model, build_tokenizer, _ = DECODERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
