package qupath.lib.images

import qupath.lib.images.servers.ImageServer
import qupath.lib.objects.hierarchy.PathObjectHierarchy

class ImageData {
    final ImageServer server = new ImageServer()
    final PathObjectHierarchy hierarchy = new PathObjectHierarchy()
}
