package qupath.lib.io

import groovy.json.JsonSlurper
import java.nio.file.Path
import java.util.zip.GZIPInputStream
import qupath.lib.objects.PathObject

class PathIO {
    static List<PathObject> readObjects(Path path) {
        path.toFile().withInputStream { stream ->
            def text = path.toString().endsWith(".gz") ? new GZIPInputStream(stream) : stream
            new JsonSlurper().parse(text).features.collect { new PathObject(id: UUID.fromString(it.id)) }
        }
    }
}
