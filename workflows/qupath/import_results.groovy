// Imports the objects of many slides into the open project of QuPath (0.4 or later), image by image by name.
//
//   wsipipe export segmentations/ --to geojson -o MY_PROJECT/wsipipe
//
// Then in QuPath: open the project, Automate > Script editor, open this file, Run (not "Run for project").
// case-17.geojson.gz goes to the image case-17.svs. Run again, it replaces what it imported before, by the objects' ids.

import qupath.lib.io.PathIO
import static qupath.lib.scripting.QP.*

// The folder of the files: "wsipipe" within that of the project. Set another one here.
def folder = new File(buildFilePath(PROJECT_BASE_DIR, "wsipipe"))

def project = getProject()
if (project == null)
    throw new IllegalStateException("no project is open")
def files = (folder.listFiles() ?: []).findAll { it.name ==~ /(?i).+\.geojson(\.gz)?/ }.groupBy { stem(it.name) }
if (files.isEmpty())
    throw new FileNotFoundException("no .geojson or .geojson.gz in " + folder)

def unused = new TreeSet(files.keySet())
def images = 0
def total = 0
for (entry in project.getImageList()) {
    def name = stem(entry.getOriginalImageName())
    def found = files[name]
    if (found == null)
        continue
    unused.remove(name)
    if (found.size() > 1) {
        println "SKIPPED " + entry.getOriginalImageName() + ": several files for it: " + found*.name.sort().join(", ")
        continue
    }
    def objects = PathIO.readObjects(found[0].toPath())
    def isOpen = entry == getProjectEntry()
    def imageData = isOpen ? getCurrentImageData() : entry.readImageData()
    def hierarchy = imageData.getHierarchy()
    def ids = objects.collect { it.getID() } as Set
    hierarchy.removeObjects(hierarchy.getAllObjects(false).findAll { it.getID() in ids }, true)
    hierarchy.addObjects(objects)
    entry.saveImageData(imageData)
    if (!isOpen)
        imageData.getServer().close()
    println entry.getOriginalImageName() + ": " + objects.size() + " objects from " + found[0].name
    images++
    total += objects.size()
}
project.syncChanges()
println total + " objects in " + images + " images"
if (unused)
    println "no image for: " + unused.join(", ")

/** The name of an image or a file without what readers put behind it (" - Series 1") and without its suffixes. */
static String stem(String name) {
    return name.replaceFirst(/ - [^.]*$/, "").replaceFirst(/(?i)(\.ome)?(\.geojson\.gz|\.[a-z]\w*)$/, "")
}
