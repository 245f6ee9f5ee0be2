package qupath.lib.images.servers

class ImageServer implements AutoCloseable {
    boolean closed

    void close() { closed = true }
}
