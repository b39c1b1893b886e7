"""Real text and real conversations: a file, a folder, or a data set of the hub, cleaned and split.

`.txt` is one document; `.jsonl`, `.json` and `.parquet` are tables with one document a row; a folder is all
such files in it. A name that is no path ("owner/name", "owner/name:config") is loaded by the `datasets`
library. What is held out depends on the content alone, not on the order of the rows, so it stays the same
when a run is repeated.
"""

from labkit.text.reading.conversations import Conversations, read_conversations
from labkit.text.reading.held_out import hold_out
from labkit.text.reading.preferences import Preferences, read_preferences
from labkit.text.reading.texts import Texts, read_texts

__all__ = [
    "Conversations",
    "Preferences",
    "Texts",
    "hold_out",
    "read_conversations",
    "read_preferences",
    "read_texts",
]
