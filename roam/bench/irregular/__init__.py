"""Networks whose graphs are wide and irregular, written from their papers.

    cells        NASNet-A, AmoebaNet-A, DARTS: networks of cells that a search has found
    randwire     RandWire: random small worlds
    recurrent    an LSTM, unrolled step by step
    experts      a decoder with mixtures of experts
    two_tower    a recommender of two towers with five losses

`order_zoo.IRREGULAR` names them with their batches.
"""
