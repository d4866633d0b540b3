"""The nets of the two papers (CVPR 2015, PAMI 2016) and of their authors' code, as data.

The room is not called "paper": that is the function `fullconv.paper`, which builds one of them.
"""
