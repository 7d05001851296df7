# SPDX-License-Identifier: Apache-2.0
"""The disk that the labs serve, a web server for it, and what QEMU's reading of it looks like."""

import re

from lab.bases import LabError

__all__ = ["IMAGE", "WEB_SERVER", "bytes_of_dump"]

#: What every network disk holds: every sector names itself.
IMAGE = b"".join((b"sector %08d\n" % number).ljust(512, b".") for number in range(2048))

# Arguments: the directory of disk.img, a port (0: any), and for https the file with key and
# certificate. QEMU's http driver insists on byte ranges, which Python's own server lacks. The
# parent leaves when the port is open, which is how one knows that the server is ready.
WEB_SERVER = r"""
import http.server, os, re, ssl, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2] or size) if asked else size, size - 1)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(image[first : last + 1])

    do_HEAD = do_GET

directory, port, *certificate = sys.argv[1:]
image = open(f"{directory}/disk.img", "rb").read()
size = len(image)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[0])
    # the handshake belongs to the connection's own thread: a client may be slow at it
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
with open(f"{directory}/port", "w") as file:
    file.write(str(server.server_port))
if os.fork() == 0:
    server.serve_forever()
"""


def bytes_of_dump(text: str) -> bytes:
    r"""The bytes that qemu-io printed, in lines like "00000010:  2e 2e 2e ..  text".

    >>> bytes_of_dump("00000000:  73 65 0a  se.\nread 3/3 bytes at offset 0\n")
    b'se\n'
    """
    if failed := re.search(r"^read failed.*", text, re.MULTILINE):
        raise LabError(failed[0])
    rows = re.findall(r"^[0-9a-f]{8,}:  ((?:[0-9a-f]{2} )+)", text, re.MULTILINE)
    return bytes.fromhex("".join(rows))
