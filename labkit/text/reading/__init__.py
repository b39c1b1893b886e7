"""Real text, conversations and preferences: a file, a folder, or a data set of the hub -> what is learned from.

    files.py       a source -> its files
    encodings.py   bytes -> text; guesses.py where nothing in them says which encoding it is
    containers.py  a file -> its rows, with csv_rows.py, json_values.py, and wrappers.py where JSON is around them
    columns.py     the names of columns, values.py what stands in them, pointers.py where that points to another column
    published_pairs.py   preferences whose columns a published data set has named
    texts.py, conversations.py, preferences.py   rows -> what is learned from
    held_out.py    which part of it is held out: by content alone, so it stays the same when a run is repeated
    report.py      the record of what was read, dropped and why

A name that is no path ("owner/name", "owner/name:config") is loaded by the `datasets` library.
"""

from labkit.text.reading.conversations import Conversations, read_conversations
from labkit.text.reading.held_out import split_held_out
from labkit.text.reading.preferences import Preferences, read_preferences
from labkit.text.reading.report import ReadReport
from labkit.text.reading.texts import Texts, read_texts

__all__ = [
    "Conversations",
    "Preferences",
    "ReadReport",
    "Texts",
    "split_held_out",
    "read_conversations",
    "read_preferences",
    "read_texts",
]
