"""Cuts large files into chunks at places that their content chooses, so that versions of a file share most of them."""

from pyfastcdc import FastCDC

from models.core.cooperative import heavy

LARGE = 4 << 20
"""Bytes from which a file is stored in chunks. The greatest chunk is as long."""


def cut(data: bytes) -> list[bytes]:
    """The chunks of these bytes, of 256 KiB to 4 MiB. The last one may be the beginning of a longer one, if more bytes follow: cut
    again from its start."""
    with heavy(len(data), LARGE):
        view = memoryview(data)
        # not shared: it is not safe between threads
        cutter = FastCDC(1 << 20, min_size=256 << 10, max_size=LARGE)
        return [bytes(view[each.offset : each.offset + each.length]) for each in cutter.cut_buf(data)]
