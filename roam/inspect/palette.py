"""The colours of all pictures: Okabe and Ito's palette (jfly.uni-koeln.de/color).

Its colours differ for every kind of colour vision. Released gradients have a lighter tone of the
gradients' green: to a reader both are gradients, and no step has much of both.
"""

from __future__ import annotations

from roam.core.problem import Kind

COLOURS = {
    Kind.SAVED: "#0072B2",
    Kind.TEMPORARY: "#E69F00",
    Kind.GRADIENT: "#009E73",
    Kind.RELEASED: "#44AA99",
    Kind.OUTPUT: "#CC79A7",
    Kind.TANGENT: "#999999",
    Kind.STATE: "#D55E00",
    Kind.INPUT: "#F0E442",
    Kind.PARAMETER: "#56B4E9",
}
LAYERS = {
    "arena blocks": "#C9D3DE",
    "external": "#B48EAD",
    "gradients, outputs": "#8CCBB5",
    "scratch": "#E3B8A0",
}
INK, HELD, BOUND = "#222222", "#C9D3DE", "#D55E00"
LIVE = "#882255"  # of Paul Tol's muted palette: no kind has it
