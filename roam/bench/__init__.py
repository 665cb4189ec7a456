"""Benchmarks: `roam bench NAME` and `roam demo`. README.md here has the measured tables.

    zoo, batches, vision, branching     the models and their random batches
    irregular                           networks whose graphs are wide, from their papers
    layered, synthetic, text_corpus     random graphs, and text to train on
    order_zoo                           the models of `roam bench order`, captured as Problems
    split_zoo, split_losses             the steps and the losses of `roam bench split`
    compilers                           the contenders of `roam bench compiled` and `split`

A benchmark is a file whose `*_bench` function prints a table and returns its rows. Contenders that
run steps have a new process each (`children`), so that memory and caches of one do not affect
another.

    benchmark       file               its worker processes
    zoo             tables             contender
    step            steps              contender
    compiled        compiled           compiled_worker (timed by paired_runs)
    split           split              compiled_worker, split_losses_worker (tables: split_tables)
    adama           adama              folding_worker
    order           order              order_worker (tables: order_tables)
    order --wide    wide, networks,    order_worker
                    ablation
    layout          layout
    convergence     convergence        (tables: convergence_report)
    roam demo       demo               demo_worker

Only the command line imports this room.
"""
