"""The methods that are compared: a similarity, an alignment, and whether the score is an order contrast."""

from dataclasses import dataclass

import candidates

STRONG = "example"  # the encoder that knows its world
# No encoders: the strong one's unit embeddings and Gaussian noise, of these lengths on every frame, on the whole clip,
# and on every text. The last two are constant over a clip, and centring takes exactly that away.
EMBEDDING_NOISE = {"noise (2, 1, 1.5)": (2, 1, 1.5), "noise (3, 2, 2)": (3, 2, 2)}


@dataclass(frozen=True)
class Method:
    """A similarity, an alignment, and whether its score is an order contrast."""

    similarity: str
    alignment: str
    contrast: bool = False

    def __str__(self):
        return f"{self.alignment}, {self.similarity}" + ", contrast" * self.contrast


PUBLISHED = Method("sigmoid", "dtw")
METHODS = [Method(similarity, name, contrast) for similarity in ("sigmoid", "cosine", "centred", "evidence")
           for name in candidates.ALIGNMENTS for contrast in (False, True)
           if not (name == "unordered" and contrast)]  # of which it is 0
