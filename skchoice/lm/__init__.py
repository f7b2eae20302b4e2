"""Activations of a language model, as rows for a sparse autoencoder, and back.

The only package that imports transformers. It reads any decoder whose blocks are a
list of modules (GPT-2, Llama and their like), stops the forward pass at the deepest
block it reads, and never stores a number it had to bend.
"""

from skchoice.lm.activations import Activations, TopContext, top_contexts
from skchoice.lm.encode import EncodedText, encode_text
from skchoice.lm.extract import extract_activations
from skchoice.lm.loss import LossRecovered, loss_recovered
from skchoice.lm.models import load_model, packaged_model
from skchoice.lm.storing import store_activations
from skchoice.lm.texts import Texts

__all__ = [
    "Activations",
    "EncodedText",
    "LossRecovered",
    "Texts",
    "TopContext",
    "encode_text",
    "extract_activations",
    "load_model",
    "loss_recovered",
    "packaged_model",
    "store_activations",
    "top_contexts",
]
