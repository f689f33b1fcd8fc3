"""A gRPC client down to HTTP/2 frames, which can misbehave as no library would.

As a program, `raw_client.py PORT COUNT` holds COUNT streams open until it is killed; the serialised
request comes on standard input.
"""
import socket
import struct
import sys
import time

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4  # of SETTINGS
CANCEL = 8


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(fields):
    """HPACK, literals only."""
    return b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
                    for name, value in fields)


class RawClient:
    """One connection, one call of GenerateStream."""

    def __init__(self, port, window=None, timeout=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        settings = b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))
        self._buffer = b""

    def call(self, timeout=None):
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"),
                  (":path", "/fla.v1.Inference/GenerateStream"), ("te", "trailers"),
                  ("content-type", "application/grpc")]
        if timeout is not None:
            fields.append(("grpc-timeout", timeout))
        self.socket.sendall(frame(HEADERS, END_HEADERS, 1, header_block(fields)))

    def send(self, message, part=1.0):
        """Sends the request, or the first part of it and no end."""
        payload = b"\0" + struct.pack(">I", len(message)) + message
        if part < 1:
            self.socket.sendall(frame(DATA, 0, 1, payload[:int(len(payload) * part)]))
        else:
            self.socket.sendall(frame(DATA, END_STREAM, 1, payload))

    def _take(self, count):
        while len(self._buffer) < count:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError
            self._buffer += more
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def messages(self):
        """Bodies of the answer's messages, until its end or that of the connection."""
        body = b""
        try:
            while True:
                head = self._take(9)
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                payload = self._take(length)
                if kind == DATA:
                    body += payload
                    while len(body) >= 5 and len(body) >= 5 + (size := int.from_bytes(body[1:5], "big")):
                        yield body[5:5 + size]
                        body = body[5 + size:]
                if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                    return
        except (EOFError, ConnectionError):
            return

    def cancel(self):
        self.socket.sendall(frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)))

    def shut_down_sending(self):
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()

    def reset(self):
        """Closes with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def main():
    port, count = int(sys.argv[1]), int(sys.argv[2])
    request = sys.stdin.buffer.read()
    clients = [RawClient(port) for _ in range(count)]
    for client in clients:
        client.call()
        client.send(request)
    print("streaming", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
