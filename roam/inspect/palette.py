"""The colours of every picture: Okabe and Ito's palette (jfly.uni-koeln.de/color), which every
kind of colour vision tells apart. Released gradients are a lighter tone of the gradients' green:
the two are the same thing to a reader, and no step has much of both.
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
INK, LIVE, BOUND = "#222222", "#0072B2", "#D55E00"
