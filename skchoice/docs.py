"""Parameters and attributes that all estimators document alike."""

from __future__ import annotations

from textwrap import indent

_SIZE = """\
n_features : int, default=None
    Number of features, the size of the dictionary. None takes
    ``max(8 * n_features_in_, 4 * k)``.
k : int or float, default=32
    Matches per token: nonzero codes of a row, on average where the rule lets rows
    differ. TokenChoiceSAE needs an int."""

_PARAMETERS = """\
aux : {"zipf", "k", None}
    Auxiliary loss: lets features that are underused (``"zipf"``, Ayonrinde 2024,
    section 3.4) or dead (``"k"``, Gao et al. 2024) reconstruct the error. Default
    ``"zipf"``; ``"k"`` for TokenChoiceSAE.
aux_coef : float, default=1/32
    Weight of the auxiliary loss; both losses are fractions of variance.
aux_k : int, default=None
    Underused features that reconstruct the error of one token. None takes half the
    number of columns.
dead_after : int, default=None
    Tokens without a match after which a feature is dead; densities are averaged over
    as many. None takes ``100 * n_features / k``: the average feature fires a hundred
    times in that window.
importance : {"relative", "absolute"}
    What is compared between tokens: affinities relative to the norm of the centred
    row, or the affinities themselves, as in the paper. With "relative" the codes of
    ``s * (x - b)`` are ``s`` times the codes of ``x - b``. Default "relative";
    "absolute" for TokenChoiceSAE.
batch_size : int or "auto", default="auto"
    Rows of a training step; the budget is ``round(k * batch_size)``. "auto" takes half
    the square root of the rows trained on, all passes together, or ``n_features / k``
    if that is more, so that an average feature expects a match. At most the rows of X.
max_iter : int, default=10
    Passes over X.
learning_rate : float or "auto", default="auto"
    Peak learning rate of Adam (betas 0.5 and 0.95; from 262,144 features on 0 and 0.9,
    with one second moment for a row of weights), for X scaled to a median row norm of
    1. "auto" takes ``0.25 * sqrt(min(b, 0.4) / n_columns)``, with ``b = batch_size /
    n_features``: the larger the batch, the less noisy are gradients, and the further
    a step may turn a decoder row.
warmup_fraction, decay_fraction : float, default=0.05, 0.5
    Shares of the steps in which the learning rate rises from and falls to zero. In
    ``partial_fit``, which knows no end, it falls with the root of the rows seen: to
    ``sqrt(0.5)`` of the peak where the average feature has had 300 matches.
n_calibration : int, default=None
    Rows set aside from training to calibrate the thresholds on, since features fire
    less often on rows they were trained on. None takes 4096, or as many as give the
    average feature 32 matches if these are more, but at most a tenth of the rows, and
    none of fewer than 256 (in TokenChoiceSAE of fewer than 4096); 0 calibrates on the
    training rows. Where X has fewer than 4096 rows, and the average feature fewer than
    32 matches in those set aside, these tell one factor for all thresholds, which are
    then those of the training rows times it. In ``partial_fit``: size of the sample of
    all rows that is kept, 8192 by default.
sparse_output : bool, default=True
    Whether ``transform`` returns CSR or a dense array.
device : str or torch.device, default="auto"
    "auto" takes the device of a torch Tensor, else CUDA if there is one.
warm_start : bool, default=False
    Whether another ``fit`` goes on from the parameters and optimizer of the last.
random_state : int, RandomState or None, default=None
    Seed of initialisation, row order and sampling. On a CPU, one seed at one number of
    threads gives the same bits.
verbose : int, default=0
    1 shows a progress bar.
checkpoint_dir : str or path-like, default=None
    Where ``fit`` keeps checkpoints, in a folder for each set of parameters and data.
    A fit that was killed or interrupted goes on from the newest when it is called again
    with the same parameters and data, and ends with the same bits; on Ctrl-C a
    checkpoint is written at the end of the step. They are removed once a fit has
    succeeded. One of another version is refused, and one of data in which any row was
    changed: X that is over 256 MiB and no store is read once more for that.
checkpoint_interval : float or "auto", default="auto"
    Seconds between checkpoints. "auto" takes a minute, or a hundred times as long as
    writing one takes."""

_ATTRIBUTES = """\
components_ : array of shape (n_features, n_columns), float32
    The dictionary: decoder directions of unit norm.
encoder_weights_ : array of shape (n_features, n_columns), float32
encoder_bias_ : array of shape (n_features,), float32
    In units of X; without unit where importance is relative.
decoder_bias_ : array of shape (n_columns,)
    What is subtracted before encoding and added after decoding, in units of X.
thresholds_ : array of shape (n_features,), float32
    A feature fires where its affinity is larger. Units as ``encoder_bias_``. Zeros in
    TokenChoiceSAE.
feature_density_ : array of shape (n_features,)
    Share of the calibration rows on which each feature fires. Where they tell but a
    factor (see ``n_calibration``), of the training rows before it.
dead_features_ : bool array of shape (n_features,)
    Features without a match in the last ``dead_after`` tokens of training.
history_ : list of dict
    Records of training: step, n_tokens, rule, loss, auxiliary_loss, fvu, l0, unfilled
    (share of the budget), n_dead, n_underused, learning_rate.
n_iter_ : int
    Passes over the data, all phases together.
n_features_in_ : int
    Columns of X.
feature_names_in_ : array of shape (n_columns,)
    Names of the columns, where all are strings.
provenance_ : dict
    What the model was fitted on: ``n_rows`` (of all calls that went on from each
    other), ``n_columns``, ``dtype``, and ``sha256`` of the rows (of data over 256 MiB,
    of evenly spaced blocks: a change between them is not seen in it). Entries of your
    own, such as the name of the language model and the layer, are saved with the
    model."""


def shared_docs(cls: type) -> type:
    """Fill in ``{size}``, ``{parameters}`` and ``{attributes}`` in a docstring."""
    if cls.__doc__:  # absent under python -OO
        for name, text in (
            ("size", _SIZE),
            ("parameters", _PARAMETERS),
            ("attributes", _ATTRIBUTES),
        ):
            filled = indent(text, "    ").lstrip()
            cls.__doc__ = cls.__doc__.replace("{" + name + "}", filled)
    return cls
