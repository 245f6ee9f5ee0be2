package qupath.lib.projects

import qupath.lib.images.ImageData

class ProjectImageEntry {
    String originalImageName
    private ImageData saved = new ImageData()
    int saves = 0

    ImageData readImageData() { saved }

    void saveImageData(ImageData imageData) { saved = imageData; saves++ }
}
