"""The few heavy operations, one signature each, one file per backend.

=============  ==============================================================
``find_hits``  positions and values of a tile that reach a threshold
``bag_sum``    weighted sums of table rows, one bag per output row
``pair_dots``  dot products of pairs of rows
=============  ==============================================================

:mod:`skchoice.ops.eager` is torch on any device and what the library runs;
:mod:`skchoice.ops.reference` is the obvious dense form that tests compare with.
"""
