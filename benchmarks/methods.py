"""The methods that are compared: a similarity, an alignment, and whether the score is an order contrast."""

import candidates

from actalign.alignment import METHODS as NAMED
from actalign.alignment import ORDERS, SIMILARITIES, Method

STRONG = "example"  # the encoder that knows its world
# No encoders: the strong one's unit embeddings and Gaussian noise, of these lengths on every frame, on the whole clip,
# and on every text. The last two are constant over a clip, and centring takes exactly that away.
EMBEDDING_NOISE = {"noise (2, 1, 1.5)": (2, 1, 1.5), "noise (3, 2, 2)": (3, 2, 2)}

PUBLISHED = NAMED["published"]
METHODS = [Method(name, similarity, orders) for similarity in SIMILARITIES
           for name in candidates.ALIGNMENTS for orders in (0, ORDERS)
           if not (name == "unordered" and orders)]  # of which it is 0
VARIANTS = [Method(name, "evidence", ORDERS) for name in candidates.VARIANTS]  # of a setting; none is chosen
