package qupath.lib.objects.hierarchy

import qupath.lib.objects.PathObject

class PathObjectHierarchy {
    private final List<PathObject> objects = []

    Collection<PathObject> getAllObjects(boolean includeRoot) { objects.asImmutable() }

    boolean addObjects(Collection<? extends PathObject> added) { objects.addAll(added) }

    void removeObjects(Collection<? extends PathObject> removed, boolean keepChildren) { objects.removeAll(removed) }
}
