"""A server of this machine that speaks as S3 does (moto's), and photographs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_served(*buckets: str) -> Iterator[str]:
    """Serve empty buckets; yield the address. This process and its children find it as users do."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", address)
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem.clear_instance_cache()
            for bucket in buckets:
                boto3.client("s3").create_bucket(Bucket=bucket)
            yield address
            s3fs.S3FileSystem.clear_instance_cache()
    finally:
        server.stop()
