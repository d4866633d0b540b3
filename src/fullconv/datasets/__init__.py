"""The datasets of the paper, as dataset folders: fetch, unpack, convert."""
