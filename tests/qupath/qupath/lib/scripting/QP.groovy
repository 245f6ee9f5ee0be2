package qupath.lib.scripting

import qupath.lib.images.ImageData
import qupath.lib.projects.Project
import qupath.lib.projects.ProjectImageEntry

class QP {
    static final String PROJECT_BASE_DIR = "{%PROJECT}"
    private static final Project PROJECT = new Project(
        imageList: System.getenv("QUPATH_IMAGES").split(",").collect { new ProjectImageEntry(originalImageName: it) })

    static Project getProject() { PROJECT }

    static ProjectImageEntry getProjectEntry() { PROJECT.imageList[0] }

    static ImageData getCurrentImageData() { PROJECT.imageList[0].readImageData() }

    static String buildFilePath(String first, String... more) {
        [first.replace(PROJECT_BASE_DIR, System.getProperty("user.dir")), *more].join(File.separator)
    }
}
