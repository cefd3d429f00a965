"""Documents of text from the Python installation, the user's files, or the Hugging Face hub.

A corpus is iterated as often as one likes and gives the same documents in the same order each time; the place of a
document in that order is its id. Documents without text are given too: whoever reads them decides, and counts.
"""

from fluxcore.data.text.combined import in_parts, join
from fluxcore.data.text.corpus import Corpus, Document
from fluxcore.data.text.embedded import EMBEDDED_SOURCES, embedded
from fluxcore.data.text.files import files
from fluxcore.data.text.hub import hub

__all__ = ["EMBEDDED_SOURCES", "Corpus", "Document", "embedded", "files", "hub", "in_parts", "join"]
