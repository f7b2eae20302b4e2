"""Files of other libraries, and models on the Hugging Face hub.

==============================  ====  ===  ==========================================
library                         from  to   estimators
==============================  ====  ===  ==========================================
SAELens                         yes   yes  all three
dictionary_learning             yes   yes  all three
sparsify                        yes        TokenChoiceSAE
OpenAI's sparse_autoencoder     yes        TokenChoiceSAE
==============================  ====  ===  ==========================================

Codes are the same on both sides but for rounding, or the file is refused. Models with
``importance="relative"`` stay here: they divide by the norm of ``x - decoder_bias_``,
and no format above knows a norm that is taken after centring.
"""

from skchoice.io.dictionary_learning import (
    from_dictionary_learning,
    to_dictionary_learning,
)
from skchoice.io.hub import load_from_hub, push_to_hub
from skchoice.io.openai import from_openai
from skchoice.io.saelens import from_saelens, to_saelens
from skchoice.io.sparsify import from_sparsify

__all__ = [
    "from_dictionary_learning",
    "from_openai",
    "from_saelens",
    "from_sparsify",
    "load_from_hub",
    "push_to_hub",
    "to_dictionary_learning",
    "to_saelens",
]
