"""What is Caffe's own: its classifiers and its file format."""
