package qupath.lib.objects

class PathObject {
    UUID id

    UUID getID() { id }
}
