"""Puts and collects chunks until it is killed: ``blob_collector.py FOLDER NEEDED``."""

import os
import sys
from pathlib import Path

from robocompute_node.blobs import FileBlobStore
from robocompute_protocol.identifiers import Digest

blobs = FileBlobStore(Path(sys.argv[1]))
needed = {Digest(bytes.fromhex(name)) for name in Path(sys.argv[2]).read_text().split()}
sys.stdout.write("ready\n")
sys.stdout.flush()
while True:
    for _ in range(16):
        blobs.put(os.urandom(64))
    blobs.collect(needed, keep_bytes=0, young_s=0)
