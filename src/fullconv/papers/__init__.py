"""What a net's name stands for; the nets of the two papers (CVPR 2015, PAMI 2016) as data.

The room is not called "paper": that is the function `fullconv.paper`, which builds one of them.
"""
