package qupath.lib.projects

class Project {
    List<ProjectImageEntry> imageList

    void syncChanges() {
        imageList.each {
            def data = it.readImageData()
            println "$it.originalImageName|${data.hierarchy.getAllObjects(false).size()}|$it.saves|$data.server.closed"
        }
    }
}
