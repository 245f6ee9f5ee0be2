// nextflow run workflows/main.nf --slides '/data/inbox/*.svs' --out /data/segmentations -process.executor=slurm
//
// One job per slide. Stores are written to their final place, not into the job's work folder, where the next job would
// not find the blocks of an interrupted one.
params.slides = 'slides/*.tif'
params.out = 'segmentations'
params.options = ''

process segment {
    cpus 8
    memory 32.GB
    // 3: the environment, such as a GPU in use. 130, 137, 143: preempted, or out of time. The retry resumes.
    errorStrategy { task.exitStatus in [3, 130, 137, 143] ? 'retry' : 'ignore' }
    maxRetries 3

    input:
    val slide

    output:
    val "${file(params.out)}/${slide.baseName}.zarr"

    script:
    def memory = task.memory.toMega().intdiv(10) * 9
    """
    wsipipe run '${slide}' -o '${file(params.out)}' --max-memory ${memory}MiB ${params.options}
    """
}

workflow {
    segment(channel.fromPath(params.slides)).view()
}
