"""What any room may stand on: errors, files, images, progress, downloads, colours."""
